"""Bases are checked before anything starts: first the JSON files in the folder, then what only transformers can check."""

import json

import pytest
import transformers

from configs import UserError, load_config
from configs.schema import BaseConfig
from policies.base_folder import check_base
from policies.loading import check_causal_lm, load_tokenizer
from tests.conftest import make_causal_lm

WHERE = "the command line: base=…"


@pytest.fixture
def folder(tmp_path):
    """A complete model as `save_pretrained` writes it, with 256 positions and 300 tokens."""
    model, tokenizer = make_causal_lm()
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def refused(folder, *settings):
    with pytest.raises(UserError) as caught:
        check_base(load_config(overrides=[f"base={folder}", *settings]), WHERE)
    return caught.value


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_whole_folder_passes(folder):
    check_base(load_config(overrides=[f"base={folder}"]), WHERE)
    check_base(load_config(), WHERE)
    check_base(load_config(overrides=["base=some/model"]), WHERE)
    config = BaseConfig(model=str(folder))
    assert load_tokenizer(str(folder), config, check_causal_lm(str(folder), config)).eos_token == "<|end|>"


def test_4_bit_weights_need_bitsandbytes(folder, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "needs bitsandbytes" in refused(folder, "base.quantization=nf4").what


def test_what_is_missing_is_named(folder):
    assert "the base's folder does not exist" in refused(folder / "none").what
    assert "the base is a file" in refused(folder / "config.json").what
    for file, what in (
        ("tokenizer.json", "there is no tokenizer in the base's folder"),
        ("model.safetensors", "there are no weights in the base's folder"),
        ("config.json", "there is no config.json in the base's folder"),
    ):
        (folder / file).unlink()
        error = refused(folder)
        assert what in error.what and error.where == WHERE and error.to_do
    (folder / "adapter_config.json").write_text("{}")
    assert "is an adapter, not a model" in refused(folder).what


def test_broken_and_other_models_are_refused(folder):
    config = folder / "config.json"
    change(config, architectures=["BertForMaskedLM"])
    assert "not a causal language model (BertForMaskedLM)" in refused(folder).what
    change(config, architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True)
    assert "not a causal language model" in refused(folder).what
    change(config, architectures=["MambaForCausalLM"], is_encoder_decoder=False, model_type="mamba")
    assert "a recurrent model (mamba)" in refused(folder).what
    for text in ("{", "[]", "[" * 100_000, "\xff"):
        config.write_bytes(text.encode("latin-1"))
        assert "config.json" in refused(folder).what


@pytest.mark.parametrize("name", ["max_position_embeddings", "n_positions"])
def test_more_tokens_than_positions_are_refused(folder, name):
    """With 256 positions, 192 + 64 tokens fit, and one more does not."""
    found = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({name: found.pop("max_position_embeddings"), **found}))
    check_base(load_config(overrides=[f"base={folder}", "data.max_prompt_tokens=192"]), WHERE)
    error = refused(folder, "data.max_prompt_tokens=193")
    assert "reads at most 256 tokens, and a prompt with its completion may have 257" in error.what
    assert "data.max_prompt_tokens=193, data.max_completion_tokens=64" in error.where


@pytest.mark.parametrize(
    ("rope", "fixed"),
    [
        ({"rope_type": "dynamic", "factor": 4.0}, 256),
        ({"rope_type": "longrope", "original_max_position_embeddings": 100}, 100),
        ({"type": "longrope", "original_max_position_embeddings": 100}, 100),
        ({"full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 100}, "sliding_attention": {}}, 100),
    ],
)
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_positions_that_depend_on_the_batch_are_refused(folder, key, rope, fixed):
    """`dynamic` changes beyond the 256 positions of the config, and `longrope` beyond those of the first training."""
    found = json.loads((folder / "config.json").read_text())
    found.pop("rope_parameters", None)
    (folder / "config.json").write_text(json.dumps({**found, key: rope}))
    check_base(load_config(overrides=[f"base={folder}", f"data.max_prompt_tokens={fixed - 64}"]), WHERE)
    error = refused(folder, f"data.max_prompt_tokens={fixed - 63}")
    kind = "dynamic" if "dynamic" in str(rope) else "longrope"
    assert f"beyond {fixed} tokens, the positions of {folder} (RoPE '{kind}') depend on the longest row of a batch" in error.what
    assert f"may have {fixed + 1}" in error.what and "'yarn'" in error.to_do


def test_fixed_positions_are_not_refused(folder):
    change(folder / "config.json", rope_parameters={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64})
    check_base(load_config(overrides=[f"base={folder}"]), WHERE)


def test_the_embedded_base_has_its_limit_as_well():
    with pytest.raises(UserError, match="the embedded base reads at most 1024 tokens"):
        check_base(load_config(overrides=["data.max_prompt_tokens=1000"]), WHERE)


def test_a_tokenizer_without_end_token_is_refused(folder):
    """A plain tokenizer file is refused before anything is loaded, and one with a class of its own once transformers has read it."""
    plain = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").unlink()
    plain.save_pretrained(folder)
    assert "the base's tokenizer has no end token" in refused(folder).what
    config = BaseConfig(model=str(folder))
    with pytest.raises(UserError, match="no end token"):
        load_tokenizer(str(folder), config, check_causal_lm(str(folder), config))


def test_a_tokenizer_with_an_end_token_only_pads_with_it(folder):
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|end|>")
    (folder / "tokenizer_config.json").unlink()
    tokenizer.save_pretrained(folder)
    config = BaseConfig(model=str(folder))
    check_base(load_config(overrides=[f"base={folder}"]), WHERE)
    loaded = load_tokenizer(str(folder), config, check_causal_lm(str(folder), config))
    assert loaded.pad_token_id == loaded.eos_token_id == 1


def test_a_tokenizer_of_another_model_is_refused(folder):
    change(folder / "config.json", vocab_size=250)
    config = BaseConfig(model=str(folder))
    with pytest.raises(UserError, match="tokens up to number 299, and the model only 250"):
        load_tokenizer(str(folder), config, check_causal_lm(str(folder), config))


def test_a_tokenizer_that_cannot_be_read_is_refused(folder):
    config = BaseConfig(model=str(folder))
    found = check_causal_lm(str(folder), config)
    for text in ("{", '{"version": "1.0"}', None):
        (folder / "tokenizer.json").unlink() if text is None else (folder / "tokenizer.json").write_text(text)
        with pytest.raises(UserError, match="there is no tokenizer to load"):
            load_tokenizer(str(folder), config, found)


def test_a_hub_that_cannot_be_reached_is_said_to_be_that(monkeypatch):
    """Raise what transformers raises after its retries, without waiting for them."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the hub cannot be reached") as caught:
        check_causal_lm("nobody/has-this-model", BaseConfig(model="nobody/has-this-model"))
    assert "nobody/has-this-model" in caught.value.where and "folder" in caught.value.to_do
