"""Shapes from config.json: parameters against transformers' own modules, and against what the makers of models publish."""

import inspect

import pytest

from configs.errors import UserError
from configs.schema import LoraSection
from policies.known_models import KNOWN_MODELS
from policies.shapes import FAMILIES, read_shape

SIZES = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "max_position_embeddings": 128,
    "ffn_dim": 160,
    "word_embed_proj_dim": 64,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
PUBLISHED = {
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "openai-community/gpt2": 124_439_808,
    "openai-community/gpt2-large": 774_030_080,
}
"""The numbers of parameters that the hub shows for the files of these models."""


def small_config(model_type):
    import transformers

    kind = transformers.AutoConfig.for_model(model_type).__class__
    known = {*inspect.signature(kind).parameters, *kind().to_dict()}
    return transformers.AutoConfig.for_model(model_type, **TOKENS, **{name: size for name, size in SIZES.items() if name in known})


@pytest.mark.parametrize("model_type", FAMILIES)
def test_parameters_are_those_of_the_module(model_type):
    """transformers builds the model on torch's meta device, which takes no memory. The file has only what differs from the defaults."""
    import torch
    import transformers

    config = small_config(model_type)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    assert read_shape(config.to_dict()).parameters == sum(p.numel() for p in model.parameters())
    assert read_shape(config.to_diff_dict()) == read_shape(config.to_dict())


@pytest.mark.parametrize("layers", ["all", "upper-half"])
@pytest.mark.parametrize("target", ["all-linear", ["q_proj", "v_proj"], r".*\.mlp\.\w+_proj"], ids=["all-linear", "names", "pattern"])
def test_adapter_parameters_are_those_of_peft(layers, target):
    from peft import get_peft_model_state_dict

    from policies.backbone import Backbone
    from tests.conftest import make_causal_lm

    if isinstance(target, str) and target != "all-linear" and layers == "upper-half":
        pytest.skip("PEFT takes layer numbers only with a list of names")
    model, tokenizer = make_causal_lm()
    lora = LoraSection(rank=4, layers=layers, target_modules=target)
    expected = read_shape(model.config.to_dict()).adapter_parameters(lora)
    backbone = Backbone(model, tokenizer, lora, "tiny")
    backbone.add_adapter("policy")
    state = get_peft_model_state_dict(backbone._peft_model, adapter_name="policy", save_embedding_layers=False)
    assert sum(tensor.numel() for tensor in state.values()) == expected


@pytest.mark.parametrize("model", PUBLISHED)
def test_known_models_have_the_published_number_of_parameters(model):
    assert read_shape(KNOWN_MODELS[model]).parameters == PUBLISHED[model]


def test_a_family_that_is_not_known_is_refused():
    with pytest.raises(UserError, match="type 'mamba' are not known") as error:
        read_shape({"model_type": "mamba", "hidden_size": 64}, "base.model=x")
    assert "llama" in error.value.to_do and error.value.where == "base.model=x"


def test_a_missing_size_is_named():
    with pytest.raises(UserError, match="does not say num_hidden_layers"):
        read_shape({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4})


def test_the_text_part_of_a_model_for_text_and_images_counts():
    text = KNOWN_MODELS["Qwen/Qwen2.5-0.5B"]
    assert read_shape({"model_type": "other", "text_config": text}) == read_shape(text)
