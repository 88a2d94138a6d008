"""The config.json of well-known models, as far as it decides their shape. It is used where the hub cannot be reached.

The sizes are those that the models' makers publish. A test compares the number of parameters of each with the published number.
"""

from typing import Any


def _config(
    model_type: str, layers: int, hidden: int, heads: int, kv_heads: int, intermediate: int, vocabulary: int, tied: bool
) -> dict[str, Any]:
    """The config.json of a model whose sizes have the names of Llama's."""
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }


def _gpt2(layers: int, hidden: int, heads: int) -> dict[str, Any]:
    sizes = {"n_layer": layers, "n_embd": hidden, "n_head": heads}
    return {"model_type": "gpt2", "vocab_size": 50257, "n_positions": 1024} | sizes


_LLAMA_3_8B = _config("llama", 32, 4096, 32, 8, 14336, 128256, tied=False)
_LLAMA_1B = _config("llama", 16, 2048, 32, 8, 8192, 128256, tied=True) | {"head_dim": 64}
_LLAMA_3B = _config("llama", 28, 3072, 24, 8, 8192, 128256, tied=True) | {"head_dim": 128}
_QWEN_SIZES = {
    "0.5B": _config("qwen2", 24, 896, 14, 2, 4864, 151936, tied=True),
    "1.5B": _config("qwen2", 28, 1536, 12, 2, 8960, 151936, tied=True),
    "3B": _config("qwen2", 36, 2048, 16, 2, 11008, 151936, tied=True),
    "7B": _config("qwen2", 28, 3584, 28, 4, 18944, 152064, tied=False),
}
_SMOLLM2_SIZES = {
    "135M": _config("llama", 30, 576, 9, 3, 1536, 49152, tied=True),
    "360M": _config("llama", 32, 960, 15, 5, 2560, 49152, tied=True),
    "1.7B": _config("llama", 24, 2048, 32, 32, 8192, 49152, tied=True),
}
_INSTRUCT = ("", "-Instruct")
KNOWN_MODELS: dict[str, dict[str, Any]] = {
    **{f"Qwen/Qwen2.5-{size}{kind}": config for size, config in _QWEN_SIZES.items() for kind in _INSTRUCT},
    **{f"HuggingFaceTB/SmolLM2-{size}{kind}": config for size, config in _SMOLLM2_SIZES.items() for kind in _INSTRUCT},
    **{f"meta-llama/Llama-3.1-8B{kind}": _LLAMA_3_8B for kind in _INSTRUCT},
    **{f"meta-llama/Llama-3.2-1B{kind}": _LLAMA_1B for kind in _INSTRUCT},
    **{f"meta-llama/Llama-3.2-3B{kind}": _LLAMA_3B for kind in _INSTRUCT},
    "smollm2-135m": _SMOLLM2_SIZES["135M"],  # the named base (named_bases.py)
    "openai-community/gpt2": _gpt2(12, 768, 12),
    "openai-community/gpt2-medium": _gpt2(24, 1024, 16),
    "openai-community/gpt2-large": _gpt2(36, 1280, 20),
}
"""Hub id, or name of a named base -> the sizes."""
