"""Translators: a real sequence-to-sequence model, a real server, and the user's own function."""

import json
import shutil

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from configs.errors import UserError, WaitingForLabels
from configs.pivot import PivotConfig
from rewards.labelers.endpoint import Reply, ReplyCache
from rewards.translation import find_translator
from rewards.translation.seq2seq import Seq2Seq, _mark
from tests.unit.rewards.labelers.chat_server import Answer, ChatServer

KEY = "sk-that-no-file-may-hold"


def make_nllb(folder, seed=0):
    """A random model of NLLB's architecture with NLLB's own tokenizer class, trained on four words. It is told to write the end token at
    the limit, as Marian's and mBART's models are."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(["mango is yellow", "มะม่วง มี สีเหลือง"], trainers.BpeTrainer(vocab_size=120, special_tokens=special))
    bpe = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in bpe["merges"]]
    tokenizer = transformers.NllbTokenizer(vocab=bpe["vocab"], merges=merges, src_lang="tha_Thai", tgt_lang="eng_Latn")
    torch.manual_seed(seed)
    config = transformers.M2M100Config(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        init_std=1.0,  # far from uniform, so that different texts get different translations
    )
    model = transformers.M2M100ForConditionalGeneration(config)
    model.generation_config.forced_eos_token_id = tokenizer.eos_token_id
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.eos_token_id] *= 1.8  # these are its logits too, so it ends some of its texts
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def nllb(tmp_path_factory):
    return make_nllb(tmp_path_factory.mktemp("nllb"))


def seq2seq(model, cache, **settings):
    given = {"translator": "seq2seq", "model": str(model), "max_reply_tokens": 12, "batch_size": 2, "cache": str(cache)}
    return find_translator(PivotConfig(**given | settings))


def test_a_seq2seq_model_translates_into_the_language_that_is_asked_for(nllb, tmp_path, monkeypatch):
    """The tokens are those of the model's own `generate`, with NLLB's code of the target as the first one, one text at a time. What
    does not end by itself is no translation."""
    texts = ["มะม่วง มี สีเหลือง", "มี", "มะม่วง"]
    found = seq2seq(nllb, tmp_path).translate(texts, "th", "en")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(nllb).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(nllb, src_lang="tha_Thai")
    begin = tokenizer.convert_tokens_to_ids("eng_Latn")
    for text, said in zip(texts, found, strict=True):
        asked = tokenizer(text, return_tensors="pt")
        ids = model.generate(**asked, forced_bos_token_id=begin, forced_eos_token_id=None, max_new_tokens=12, do_sample=False)[0]
        whole = tokenizer.decode(ids, skip_special_tokens=True).strip() if tokenizer.eos_token_id in ids[1:] else None
        assert ids[1] == begin and said == whole
    assert None in found and set(found) != {None}
    monkeypatch.setattr(Seq2Seq, "_generate", lambda *_: pytest.fail("it was translated before"))
    assert seq2seq(nllb, tmp_path).translate(texts[::-1], "th", "en") == found[::-1]


def test_a_text_that_is_longer_than_the_model_reads_is_not_cut(nllb, tmp_path, monkeypatch):
    monkeypatch.setattr("rewards.translation.seq2seq.LONGEST", 6)
    settings = {"max_reply_tokens": 40, "batch_size": 3}
    long, short = "มี " * 6, "มี"
    assert seq2seq(nllb, tmp_path, **settings).translate([long], "th", "en") == [None]
    alone = seq2seq(nllb, tmp_path / "alone", **settings).translate([short], "th", "en")
    assert alone != [None]
    assert seq2seq(nllb, tmp_path / "beside", **settings).translate([long, short], "th", "en") == [None, *alone]


def test_a_translation_is_kept_for_one_model_one_direction_and_one_text(nllb, tmp_path, monkeypatch):
    other = make_nllb(tmp_path / "other", seed=1)
    asked = []
    monkeypatch.setattr(Seq2Seq, "_generate", lambda self, texts, source, target: asked.append((source, list(texts))) or ["x"] * len(texts))
    for model, settings in ((nllb, {}), (nllb, {}), (other, {}), (nllb, {"beams": 2}), (nllb, {"model_back": str(other)})):
        translator = seq2seq(model, tmp_path / "cache", **settings)
        assert translator.translate(["a", "b", "a"], "th", "en") == ["x"] * 3
        translator.translate(["a"], "en", "th")
    once = [("th", ["a", "b"]), ("en", ["a"])]
    assert asked == once * 3  # the model for the way back is the other one, which has translated "a" before


def test_the_marks_of_languages():
    """M2M100 has a method for them, and NLLB has them as tokens."""

    class M2M100:
        unk_token_id = 3

        def get_lang_id(self, code):
            return {"th": 7}[code]

    assert _mark(M2M100(), "th") == 7
    with pytest.raises(UserError, match="does not know the language 'xx'"):
        _mark(M2M100(), "xx")


def test_a_language_that_the_model_does_not_know_and_a_model_that_is_not_there_are_named(nllb, tmp_path):
    with pytest.raises(UserError, match="does not know the language 'en_XX'"):
        seq2seq(nllb, tmp_path, codes={"en": "en_XX"}).translate(["มี"], "th", "en")
    with pytest.raises(UserError, match="does not know the language 'th_XX'"):
        seq2seq(nllb, tmp_path, codes={"th": "th_XX"}).translate(["มี"], "th", "en")
    broken = shutil.copytree(nllb, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"not weights")
    for folder in (tmp_path / "nowhere", broken):
        with pytest.raises(UserError, match="the translator cannot be loaded"):
            seq2seq(folder, tmp_path).translate(["มี"], "th", "en")


def over_http(server, cache, **settings):
    given = {"translator": "http", "url": server.url, "model": "m", "cache": str(cache), "max_retries": 1, "backoff_seconds": 0.0}
    return find_translator(PivotConfig(**given | settings))


def text_in(asked):
    return asked.split("<text>\n")[1].split("\n</text>")[0]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_an_endpoint_is_asked_once_for_each_text_and_the_key_is_written_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSLATOR_KEY", KEY)
    with ChatServer(lambda asked, before: Answer(f" {text_in(asked)}! ")) as server:
        translator = over_http(server, tmp_path, key_variable="TRANSLATOR_KEY")
        assert translator.translate(["ก", "ข {text}"], "th", "en") == ["ก!", "ข {text}!"]
        assert translator.translate(["ข {text}", "ค"], "th", "en") == ["ข {text}!", "ค!"]
        assert translator.translate(["ค"], "en", "th") == ["ค!"]
        assert server.paid.total() == 4 and server.authorizations == {f"Bearer {KEY}"}
        assert {"from Thai to English", "from English to Thai"} == {asked.split("marks ")[1].split(". Keep")[0] for asked in server.paid}
        assert translator.name == f"m at {server.url}"
    written = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(written) == 4 and not any(KEY in text for text in written)


def test_a_refused_text_has_no_translation_and_a_refusal_of_all_is_an_error(tmp_path):
    def reply(asked, before):
        return Answer("too long", 413) if "long" in text_in(asked) else Answer("" if "empty" in text_in(asked) else "fine")

    with ChatServer(reply) as server:
        translator = over_http(server, tmp_path)
        assert translator.translate(["long", "short", "empty"], "th", "en") == [None, "fine", None]
        assert translator.translate(["long"], "th", "en") == [None]  # few texts may be refused for what they say
        with pytest.raises(UserError, match="the translator's endpoint refuses every request: status 413: too long"):
            translator.translate([f"long {number}" for number in range(8)], "th", "en")


def test_a_reply_that_is_as_long_as_replies_may_be_counts_as_cut_off(tmp_path):
    """The server says that each of its replies has 2 tokens."""
    with ChatServer(lambda asked, before: Answer("fine")) as server:
        for limit, found in ((2, None), (3, "fine"), (None, "fine")):
            assert over_http(server, tmp_path, max_reply_tokens=limit).translate(["ก"], "th", "en") == [found]


def test_a_reply_that_the_endpoint_calls_cut_off_is_no_translation(tmp_path):
    """Some endpoints count no tokens, or not those that a model has thought before it answered, or have a limit of their own."""

    def reply(asked, before):
        choice = {"message": {"content": "The mango is"}, "finish_reason": "length" if text_in(asked) == "long" else "stop"}
        return Answer(raw=json.dumps({"choices": [choice]}).encode())

    with ChatServer(reply) as server:
        for limit in (256, None):
            translator = over_http(server, tmp_path, max_reply_tokens=limit)
            assert translator.translate(["long", "short"], "th", "en") == [None, "The mango is"]
            assert translator.translate(["long", "short"], "th", "en") == [None, "The mango is"]  # the cache says so too
        assert server.asked.total() == 4


def test_replies_that_were_kept_by_an_earlier_version_are_read(tmp_path):
    cache = ReplyCache(tmp_path)
    cache.put("key", Reply("fine", 1, 2, "then"))
    (file,) = tmp_path.rglob("*.json")
    file.write_text('{"text": "fine", "input_tokens": 1, "output_tokens": 2, "at": "then"}')
    assert cache.get("key") == Reply("fine", 1, 2, "then", is_cut=False)


def test_an_endpoint_that_is_down_ends_the_run_and_nothing_is_paid_twice(tmp_path):
    healthy = False

    def reply(asked, before):
        return Answer("fine") if healthy or "first" in text_in(asked) else Answer("down", 503)

    with ChatServer(reply) as server:
        translator = over_http(server, tmp_path, concurrency=1)
        with pytest.raises(WaitingForLabels, match="the translator does not answer: status 503: down"):
            translator.translate(["first", "second"], "th", "en")
        healthy = True
        assert over_http(server, tmp_path).translate(["first", "second"], "th", "en") == ["fine", "fine"]
        assert set(server.paid.values()) == {0, 1} or set(server.paid.values()) == {1}
        assert server.paid.total() == 2


def test_a_function_of_the_users_is_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "def upper(texts, source, target): return [t.upper() + source + target if t else None for t in texts]\n"
        "def few(texts, source, target): return texts[1:]\n"
        "def numbers(texts, source, target): return [1 for _ in texts]\n"
    )
    found = find_translator(PivotConfig(translator="mine.py:upper"))
    assert found.translate(["a", ""], "th", "en") == ["Athen", None] and found.name == "mine.py:upper"
    for name, what in (("few", "0 translations of 1 texts"), ("numbers", "it gave 1 as a translation")):
        with pytest.raises(UserError, match=what):
            find_translator(PivotConfig(translator=f"mine.py:{name}")).translate(["a"], "th", "en")


def test_the_default_cache_is_that_of_loop(monkeypatch, tmp_path):
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path))
    translator = find_translator(PivotConfig(translator="http"))
    assert isinstance(translator._cache, ReplyCache) and translator._cache.folder == tmp_path / "translations"
