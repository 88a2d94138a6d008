"""Tiny random models of many decoder families, made from configs. `docs/models.md` has one row for each."""

import copy
import functools
from typing import Any

import torch
import transformers

from configs.schema import LoraSection
from policies.backbone import Backbone
from tests.conftest import make_causal_lm

VOCABULARY = 320
"""A few more rows than the tokenizer has tokens, as in many published models."""
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 256}
LLAMA = SIZES | {"intermediate_size": 64, "num_key_value_heads": 2}
GEMMA = LLAMA | {"head_dim": 8}
MOE = LLAMA | {"head_dim": 8, "num_experts_per_tok": 2}
GPT = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}
OPT = SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32}
XGLM = {"d_model": 32, "num_layers": 4, "attention_heads": 4, "ffn_dim": 64, "max_position_embeddings": 256}
NEO = {"hidden_size": 32, "num_layers": 4, "num_heads": 4, "max_position_embeddings": 256, "window_size": 12, "intermediate_size": 64}
FROM_64 = {"original_max_position_embeddings": 64}
FALCON = SIZES | {"new_decoder_architecture": False, "multi_query": True, "bias": False}


def rope(kind: str, **parameters: Any) -> dict[str, Any]:
    """A config of Llama with one kind of rotary embedding, stretched by 4."""
    return LLAMA | {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, **parameters}}


def windows(length: int = 12, kinds: int = 2) -> dict[str, Any]:
    """Every `kinds`-th layer sees everything, and the others see `length` tokens."""
    types = ["full_attention" if i % kinds == kinds - 1 else "sliding_attention" for i in range(SIZES["num_hidden_layers"])]
    return {"sliding_window": length, "layer_types": types}


FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "BLOOM": ("bloom", {"hidden_size": 32, "n_layer": 4, "n_head": 4}),
    "Falcon, ALiBi": ("falcon", FALCON | {"alibi": True, "parallel_attn": False}),
    "Falcon, rotary": ("falcon", FALCON | {"alibi": False, "parallel_attn": True}),
    "Gemma": ("gemma", GEMMA),
    "Gemma 2": ("gemma2", GEMMA | windows()),
    "Gemma 3": ("gemma3_text", GEMMA | windows(kinds=3)),
    "GPT-2": ("gpt2", GPT),
    "GPT-J": ("gptj", GPT | {"rotary_dim": 4}),
    "GPT-Neo": ("gpt_neo", NEO | {"attention_types": [[["global", "local"], 2]]}),
    "GPT-NeoX, Pythia": ("gpt_neox", SIZES | {"intermediate_size": 64, "rotary_pct": 0.5}),
    "GPT-OSS": ("gpt_oss", rope("yarn", **FROM_64) | MOE | windows() | {"num_local_experts": 4}),
    "Llama": ("llama", LLAMA),
    "Llama, biased": ("llama", LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "Llama, tied, no grouped heads": ("llama", LLAMA | {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "Llama, RoPE linear": ("llama", rope("linear")),
    "Llama, RoPE llama3": ("llama", rope("llama3", **FROM_64, low_freq_factor=1.0, high_freq_factor=4.0)),
    "Llama, RoPE longrope": (
        "llama",
        rope("longrope", original_max_position_embeddings=256, short_factor=[1.5] * 4, long_factor=[2.0] * 4),
    ),
    "Llama, RoPE yarn": ("llama", rope("yarn", **FROM_64)),
    "mGPT": ("gpt2", GPT | {"vocab_size": 2048, "n_layer": 2}),
    "Mistral": ("mistral", LLAMA | {"sliding_window": None}),
    "Mistral, window": ("mistral", LLAMA | {"sliding_window": 12}),
    "Mixtral": ("mixtral", MOE | {"num_local_experts": 4}),
    "MPT": ("mpt", {"d_model": 32, "n_layers": 4, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 256}),
    "OLMo 2": ("olmo2", LLAMA),
    "OPT": ("opt", OPT),
    "OPT-350m": ("opt", OPT | {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "Phi-3": ("phi3", LLAMA | {"sliding_window": 12}),
    "Qwen2": ("qwen2", LLAMA),
    "Qwen2, tied": ("qwen2", LLAMA | {"tie_word_embeddings": True}),
    "Qwen3": ("qwen3", GEMMA),
    "Qwen3-MoE": ("qwen3_moe", MOE | {"num_experts": 4, "moe_intermediate_size": 32}),
    "SmolLM3": ("smollm3", LLAMA | {"no_rope_layers": [1, 0, 1, 0]}),
    "XGLM": ("xglm", XGLM),
}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "Falcon Mamba": ("falcon_mamba", {}),
    "Jamba": ("jamba", LLAMA | {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1}),
    "Mamba": ("mamba", {}),
    "Mamba 2": ("mamba2", {}),
    "RWKV": ("rwkv", {}),
    "xLSTM": ("xlstm", {}),
}
"""What is not usable. Where no sizes are given, the config alone says so, and the weights are not looked at."""
WIDER = {"GPT-2": {"n_embd": 64}, "Llama": {"hidden_size": 64}, "Qwen2": {"hidden_size": 64}, "XGLM": {"d_model": 64}}
"""The same forms, with weights that bitsandbytes can pack in blocks of 64."""


@functools.cache
def _random_weights(name: str, wider: bool) -> tuple[Any, dict[str, torch.Tensor]]:
    kind, sizes = (FORMS | REFUSED)[name]
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    settings = {"vocab_size": VOCABULARY} | ids | sizes | (WIDER[name] if wider else {})
    config = transformers.AutoConfig.for_model(kind, **settings)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # biases and norms too: nothing may hide behind a zero
    return config, model.state_dict()


def tiny_model(name: str, dtype: torch.dtype = torch.float32, wider: bool = False) -> Any:
    """A fresh copy of one form's random model."""
    config, weights = _random_weights(name, wider)
    model = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config))
    model.load_state_dict(weights)
    return model.to(dtype).eval()


def tiny_backbone(name: str, layers: str = "all", dtype: torch.dtype = torch.float32) -> Backbone:
    """A backbone over one form's random model, without adapters."""
    return Backbone(tiny_model(name, dtype), make_causal_lm()[1], LoraSection(rank=4, layers=layers), name=name)
