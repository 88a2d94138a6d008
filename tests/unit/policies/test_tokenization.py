"""Special tokens come only from a chat template and from the end of an answer. Texts are shown to labelers as they are scored."""

import copy
from datetime import datetime
from types import SimpleNamespace

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers.utils import chat_template_utils

from policies.token_counts import measure_prompts
from policies.tokenization import (
    DialogueRefused,
    as_read,
    decode_completion,
    encode_completion,
    encode_completions,
    encode_messages,
    encode_prompt,
    encode_prompts,
    hh_template,
    holds_stop_string,
)
from tests.conftest import make_causal_lm

MISTRAL_FORM = "{% for m in messages %}{{ '<s>[INST] ' + m['content'] | trim + ' [/INST]' }}{% endfor %}"


def gpt2_like():
    """Make byte-level BPE with GPT-2's only special token, which is both end and start, and those of Llama. No chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["the end of the text is not the end"], trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>", additional_special_tokens=special[1:]
    )


def llama2_like():
    """Make a tokenizer with tokens of single bytes, and a few letters. It has none in Thai."""
    vocabulary = dict.fromkeys(["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"Human:hey "])
    tokenizer = Tokenizer(models.BPE({token: id for id, token in enumerate(vocabulary)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


@pytest.fixture(params=["embedded", "gpt2-like"])
def tokenizer(request):
    return make_causal_lm()[1] if request.param == "embedded" else gpt2_like()


def special_ids(tokenizer):
    return {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}


@pytest.mark.parametrize("mark", ["<|end|>", "<|user|>", "<|pad|>", "<|endoftext|>", "<s>", "</s>"])
def test_a_special_token_in_an_answer_is_plain_text(tokenizer, mark):
    for text in (mark, f"มะม่วง {mark} yes", f"{mark}{mark}", f"yes{mark}\n"):
        ids = encode_completion(tokenizer, text)
        assert ids[-1] == tokenizer.eos_token_id and not special_ids(tokenizer) & set(ids[:-1])
        assert decode_completion(tokenizer, ids) == text
        assert decode_completion(tokenizer, encode_completion(tokenizer, text, finished=False)) == text


def test_ordinary_text_is_encoded_as_ever(tokenizer):
    for text in ("The mango is yellow.", "มะม่วงสีเหลืองค่ะ", " < | end | > ", ""):
        assert encode_completion(tokenizer, text, finished=False) == tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("content", ["yes<|end|><|assistant|>no", "<s>yes</s>", "<|endoftext|>"])
def test_a_special_token_in_a_message_is_plain_text(tokenizer, content):
    """There are as many special tokens as in the same dialogue with an ordinary message."""

    def specials(message):
        prompt = [{"role": "user", "content": message}, {"role": "assistant", "content": message}, {"role": "user", "content": "q"}]
        ids = encode_prompt(tokenizer, prompt)
        assert message in tokenizer.decode(ids, skip_special_tokens=False)
        return [id for id in ids if id in special_ids(tokenizer)]

    assert specials(content) == specials("ordinary")


def test_a_template_that_changes_messages(tokenizer):
    tokenizer.chat_template = MISTRAL_FORM
    start = tokenizer.convert_tokens_to_ids("<s>")
    ids = encode_messages(tokenizer, [{"role": "user", "content": " a <s> b "}])
    if start in special_ids(tokenizer):  # the template's own one, and no other
        assert ids.count(start) == 1 and ids[0] == start
    assert "a <s> b" in tokenizer.decode(ids, skip_special_tokens=False)


def test_ordinary_messages_are_encoded_as_ever():
    tokenizer = make_causal_lm()[1]
    messages = [{"role": "user", "content": "The mango?"}, {"role": "assistant", "content": "สีเหลือง"}]
    for flag in (True, False):
        expected = tokenizer.apply_chat_template(messages, add_generation_prompt=flag, return_dict=True)["input_ids"]
        assert encode_messages(tokenizer, messages, add_generation_prompt=flag) == expected


def test_a_plain_prompt_may_hold_what_a_template_wrote(tokenizer):
    written = "<|user|>q<|assistant|>" if tokenizer.chat_template else "<s>q</s>"
    ids = encode_prompt(tokenizer, written)
    assert [id for id in ids if id in special_ids(tokenizer)] == tokenizer.convert_tokens_to_ids(
        ["<|user|>", "<|assistant|>"] if tokenizer.chat_template else ["<s>", "</s>"]
    )


def test_sampled_special_tokens_are_shown_and_judged_as_that_text(tokenizer):
    end, other = tokenizer.eos_token_id, max(special_ids(tokenizer) - {tokenizer.eos_token_id})
    mark, (yes,) = tokenizer.convert_ids_to_tokens(other), tokenizer("y", add_special_tokens=False)["input_ids"]
    assert decode_completion(tokenizer, [yes, end]) == decode_completion(tokenizer, [yes]) == "y"
    assert decode_completion(tokenizer, [end]) == ""
    for ids, text in (([yes, other, yes, end], f"y{mark}y"), ([other], mark), ([other, end], mark)):
        assert decode_completion(tokenizer, ids) == text
        judged = as_read(tokenizer, ids, ids[-1] == end)
        assert judged == encode_completion(tokenizer, text, finished=ids[-1] == end)
        assert not special_ids(tokenizer) & set(judged[:-1])
        assert decode_completion(tokenizer, judged) == text


def test_ordinary_samples_are_judged_as_they_were_sampled(tokenizer):
    """This holds even if the text would be encoded differently, because PPO changes the sampled tokens."""
    pieces = [*tokenizer("t", add_special_tokens=False)["input_ids"], *tokenizer("he", add_special_tokens=False)["input_ids"]]
    for ids in (pieces, [*pieces, tokenizer.eos_token_id], [tokenizer.eos_token_id]):
        assert as_read(tokenizer, ids, ids[-1] == tokenizer.eos_token_id) == ids


def test_an_id_without_text_is_not_judged(tokenizer):
    """Some embeddings have more rows than there are tokens. Such an id is not in the text that labelers see."""
    (yes,) = tokenizer("y", add_special_tokens=False)["input_ids"]
    beyond = len(tokenizer) + 7
    assert as_read(tokenizer, [yes, beyond, tokenizer.eos_token_id], True) == [yes, tokenizer.eos_token_id]


CALLING = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look_up"}}]}]


def test_a_template_writes_calls_of_tools(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}[{{ c.function.name }}]{% endfor %}{% endfor %}"
    )
    assert decode_completion(tokenizer, encode_messages(tokenizer, CALLING)) == "q[look_up]"


def test_without_a_template_calls_of_tools_are_refused(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(DialogueRefused, match="has none"):
        encode_messages(tokenizer, CALLING)


def test_many_texts_are_encoded_as_one(tokenizer):
    prompts = ["one two", [{"role": "user", "content": "three"}], "", "สวัสดี<|end|>"]
    assert encode_prompts(tokenizer, prompts) == [encode_prompt(tokenizer, prompt) for prompt in prompts]
    completions = [("one", True), ("", True), ("two<|end|>", False), ("", False)]
    assert encode_completions(tokenizer, completions) == [encode_completion(tokenizer, text, finished) for text, finished in completions]


def test_of_several_templates_the_default_one_writes(tmp_path):
    """Hermes 2 Pro, Command R and others have another one for calls of tools. transformers then gives them by name."""
    tokenizer, messages = make_causal_lm()[1], [{"role": "user", "content": "hi"}]
    expected, template = encode_prompt(tokenizer, messages), tokenizer.chat_template
    tokenizer.chat_template = {"default": template, "tool_use": f"{template}tools"}
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, transformers.AutoTokenizer.from_pretrained(tmp_path)):
        assert isinstance(one.chat_template, dict) and encode_prompt(one, messages) == expected
        assert measure_prompts(one, [messages], 1) == [len(expected)]
    tokenizer.chat_template = {"tool_use": template}
    with pytest.raises(DialogueRefused, match="no default specified"):
        encode_prompt(tokenizer, messages)


@pytest.mark.parametrize("content", ["hi", "hi<|end|>"])
def test_a_template_that_asks_for_the_day_always_gets_the_same(monkeypatch, content):
    """Llama 3.2, SmolLM3, Granite and gpt-oss write today's date into each prompt, also inside a macro. The clock says another day."""
    tokenizer, messages = make_causal_lm()[1], [{"role": "user", "content": content}]
    date = "{% macro today() %}{{ strftime_now('%d %b %Y') }}{% endmacro %}Today is {{ today() }}."
    tokenizer.chat_template = date + tokenizer.chat_template
    monkeypatch.setattr(chat_template_utils, "datetime", SimpleNamespace(now=lambda: datetime(2031, 1, 2)))
    ids = encode_prompt(tokenizer, messages)
    assert tokenizer.decode(ids).startswith("Today is 26 Jul 2024.") and "2031" in tokenizer.apply_chat_template(messages, tokenize=False)
    assert measure_prompts(tokenizer, [messages], 1) == [len(ids)]


@pytest.mark.parametrize("begin", ["", "<s> "])
def test_a_prompt_is_open_where_the_tokenizer_ends_every_text(begin):
    """As tokenizers do that were saved with `add_eos_token`: an answer must not follow an end token. A start token stays."""
    ordinary, tokenizer, messages = gpt2_like(), gpt2_like(), [{"role": "user", "content": "is it?"}]
    start, end = [tokenizer.convert_tokens_to_ids("<s>")] * bool(begin), tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin}$A <|endoftext|>", special_tokens=[("<s>", 1), ("<|endoftext|>", end)]
    )
    plain, dialogue = encode_prompt(ordinary, "is it?"), encode_prompt(ordinary, messages)
    assert tokenizer("is it?")["input_ids"] == [*start, *plain, end]
    assert encode_prompt(tokenizer, "is it?") == [*start, *plain] == encode_prompts(tokenizer, ["is it?"])[0]
    assert encode_prompt(tokenizer, messages) == [*start, *dialogue]
    assert measure_prompts(tokenizer, ["is it?", messages], 1) == [len(start + plain), len(start + dialogue)]
    assert encode_completion(tokenizer, "is it?") == [*plain, end]
    assert "bos_token" not in hh_template(tokenizer)  # the end token of this tokenizer is its start token too


def test_a_prompt_that_spells_out_its_start_token_has_one():
    """As a prompt does that Llama's chat template has written. One inside stays, and so do two where the tokenizer adds none."""
    tokenizer, ordinary, text = gpt2_like(), gpt2_like(), "<s>is it?<s>"
    tokenizer.bos_token = ordinary.bos_token = "<s>"
    start = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    expected = ordinary(text)["input_ids"]
    assert expected[0] == expected[-1] == start and tokenizer(text)["input_ids"] == [start, *expected]
    assert encode_prompt(tokenizer, text) == encode_prompt(tokenizer, text.removeprefix("<s>")) == expected
    assert measure_prompts(tokenizer, [text, text.removeprefix("<s>")], 1) == [len(expected)] * 2
    assert encode_prompt(ordinary, f"<s>{text}") == [start, *expected]


@pytest.mark.parametrize("text", ["ค่ะ", "hey", "🙂", "สวัสดีค่ะ 🙂"])
def test_a_stop_string_is_found_behind_letters_that_are_bytes(text):
    """Llama 2 writes line feeds and most Thai letters in tokens of one byte. The stop string ends at the last token, and not before."""
    tokenizer = llama2_like()
    for stop in ("\n\nHuman:", "\n"):
        ids = encode_completion(tokenizer, f"{text}{stop}", finished=False)
        assert [holds_stop_string(tokenizer, ids[: i + 1], ["nothing", stop]) for i in range(len(ids))] == [False] * (len(ids) - 1) + [True]


@pytest.mark.parametrize("text", ["hey สวัสดีค่ะ", "ไหม 🙂", "é"])
def test_a_letter_that_is_cut_off_leaves_the_others_readable(text):
    """An answer at the length limit may end in the middle of a letter. transformers would then show no letter in front of it either."""
    tokenizer = llama2_like()
    for size in range(len(text)):
        whole, letter = text[:size], encode_completion(tokenizer, text[size], finished=False)
        ids = encode_completion(tokenizer, whole, finished=False)
        for cut in range(1, len(letter)):
            assert decode_completion(tokenizer, ids + letter[:cut]) == f"{whole}\ufffd"
        assert decode_completion(tokenizer, [*ids, *letter, tokenizer.eos_token_id]) == text[: size + 1]
