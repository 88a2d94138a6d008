"""Lengths in tokens are those of what is encoded, and a text whose bytes are within the limit is not encoded."""

import random

import pytest
from tokenizers import normalizers, pre_tokenizers

from policies import token_counts
from policies.token_counts import measure_completions, measure_prompts
from policies.tokenization import DialogueRefused, encode_completion, encode_prompt
from tests.conftest import make_causal_lm
from tests.unit.policies.test_tokenization import CALLING, gpt2_like

PIECES = ["the ", "mango", "มะม่วง", "é", "<|end|>", "<s>", "<|endoftext|>", "\n\n", " ", "x" * 30, "🙂"]


@pytest.fixture(params=["embedded", "gpt2-like"])
def tokenizer(request):
    return make_causal_lm()[1] if request.param == "embedded" else gpt2_like()


def some_texts(count=120):
    rng = random.Random(0)
    return ["", *("".join(rng.choices(PIECES, k=rng.randint(1, 9))) for _ in range(count))]


def agree(measured, exact, limit):
    """Lengths beyond the limit are exact, and so is 0. The others may be anything that is within the limit."""
    return all(a == b if b == 0 or b > limit else b <= a <= limit for a, b in zip(measured, exact, strict=True))


@pytest.mark.parametrize("limit", [1, 8, 40, 10_000])
def test_lengths_are_those_of_what_is_encoded(tokenizer, limit):
    texts = some_texts()
    prompts = [*texts, *([{"role": "user", "content": text}, {"role": "assistant", "content": "ok"}] for text in texts)]
    exact = [len(encode_prompt(tokenizer, prompt)) for prompt in prompts]
    assert agree(measure_prompts(tokenizer, prompts, limit), exact, limit)
    completions = [(text, finished) for text in texts for finished in (True, False)]
    exact = [len(encode_completion(tokenizer, *completion)) for completion in completions]
    assert agree(measure_completions(tokenizer, completions, limit), exact, limit)


def test_only_what_may_be_too_long_is_encoded(tokenizer, monkeypatch):
    """Of five texts, two have more bytes than the limit of ten: "mangoes, two", and four Thai letters of three bytes each."""
    encoded = []
    monkeypatch.setattr(token_counts, "_count", lambda tokenizer, texts, *form: encoded.extend(texts) or [99] * len(texts))
    texts = ["mango", "ม่วง", "", "mangoes", "กกก"]
    assert measure_prompts(tokenizer, texts, 10) == [5, 99, 99, 7, 9]
    assert encoded == ["ม่วง", ""]


def test_a_tokenizer_that_makes_a_text_longer_has_to_encode_it(tokenizer):
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Replace("a", "q w e r t y")  # no two of these letters are one token
    token_counts._tokens_beyond_bytes.cache_clear()
    assert measure_prompts(tokenizer, ["a"], 5) == [len(encode_prompt(tokenizer, "a"))] and len(encode_prompt(tokenizer, "a")) > 5


def test_a_tokenizer_that_puts_a_space_before_each_piece_has_to_encode_it(tokenizer):
    """The text has six bytes. Each of its six pieces gets a space, and no letter or digit of it is joined to that."""
    splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    token_counts._tokens_beyond_bytes.cache_clear()
    exact = len(encode_prompt(tokenizer, "Q1Z2Q3"))
    assert measure_prompts(tokenizer, ["Q1Z2Q3"], 7) == [exact] and exact > 7


def test_a_class_of_its_own_is_asked_itself():
    class Doubling(type(gpt2_like())):
        def _encode_plus(self, text, **options):
            return super()._encode_plus([one * 2 for one in text] if isinstance(text, list) else text * 2, **options)

    base = gpt2_like()
    tokenizer = Doubling(tokenizer_object=base.backend_tokenizer, eos_token=base.eos_token)
    assert measure_completions(tokenizer, [("mango", False)], 7) == [len(base("mangomango")["input_ids"])]


def test_a_refused_dialogue_is_told(tokenizer):
    tokenizer.chat_template = None
    (found,) = measure_prompts(tokenizer, [CALLING], 10)
    assert isinstance(found, DialogueRefused) and "has none" in str(found)
