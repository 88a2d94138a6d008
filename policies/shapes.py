"""The shape of a decoder-only model, read from its config.json alone: no weights, no torch, no download.

    shape = read_shape(config)                     # config: the object in config.json
    shape.parameters                               # how many numbers the model has
    shape.adapter_parameters(config.lora)          # how many of them one LoRA adapter adds

A test builds models of many families without memory (torch's `meta` device) and compares the number of parameters. A family that is not
known is refused and never guessed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.errors import UserError
from configs.sections import BaseConfig, LoraSection
from policies.base_folder import MAX_POSITIONS


@dataclass(frozen=True)
class Linear:
    """One linear layer inside a decoder layer. name: its path there, for example "self_attn.q_proj". copies: one for each expert."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False
    copies: int = 1


@dataclass(frozen=True)
class Family:
    """How the models of one or several types are built."""

    attention: tuple[str, ...]
    """The linear layers of attention: queries, keys, values and output; two names where the first three are one layer."""
    mlp: tuple[str, ...]
    """The linear layers of the MLP: gate, up and down; two names where there is no gate, or where gate and up are one layer."""
    gated: bool = True
    bias: tuple[bool, bool] = (False, False)
    """Whether the layers of attention and of the MLP have a bias."""
    output_bias: bool | None = None
    """Whether attention's output has a bias, where it differs from the other layers of attention."""
    norms: int = 2
    """How many norms of the hidden size a layer has."""
    norm_bias: bool = False
    head_norms: bool = False
    """Whether queries and keys of each head are normed."""
    positions: str | None = None
    """The name of the setting that says how many learned position vectors there are."""
    extra_positions: int = 0
    tied: bool = False
    """Whether input and output embeddings are one matrix, where config.json does not say so."""
    fused: bool = False
    """Whether policies/fast/layers.py knows the layers."""
    conv1d: bool = False
    """Whether the layers are transformers' `Conv1D`."""


_QKVO = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_GATED = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_LLAMA = Family(_QKVO, _GATED, fused=True)
_GPT_NEOX = Family(
    ("attention.query_key_value", "attention.dense"),
    ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    gated=False,
    bias=(True, True),
    norm_bias=True,
)
FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "smollm3": Family(_QKVO, _GATED, tied=True),
    "qwen2": Family(_QKVO, _GATED, bias=(True, False), output_bias=False, fused=True),
    "qwen3": Family(_QKVO, _GATED, head_norms=True),
    "gemma": Family(_QKVO, _GATED, tied=True),
    "gemma2": Family(_QKVO, _GATED, norms=4, tied=True),
    "gemma3_text": Family(_QKVO, _GATED, norms=4, head_norms=True, tied=True),
    "phi3": Family(("self_attn.qkv_proj", "self_attn.o_proj"), ("mlp.gate_up_proj", "mlp.down_proj")),
    "mixtral": Family(_QKVO, _GATED),
    "gpt2": Family(
        ("attn.c_attn", "attn.c_proj"),
        ("mlp.c_fc", "mlp.c_proj"),
        gated=False,
        bias=(True, True),
        norm_bias=True,
        positions="n_positions",
        tied=True,
        conv1d=True,
    ),
    "gpt_neox": _GPT_NEOX,
    "opt": Family(
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
        ("fc1", "fc2"),
        gated=False,
        bias=(True, True),
        norm_bias=True,
        positions="max_position_embeddings",
        extra_positions=2,
        tied=True,
    ),
}
_NAMES = {
    "hidden": ("hidden_size", "n_embd"),
    "layers": ("num_hidden_layers", "n_layer"),
    "heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
    "head_size": ("head_dim",),
    "intermediate": ("intermediate_size", "n_inner", "ffn_dim"),
    "vocabulary": ("vocab_size",),
    "experts": ("num_local_experts",),
    "used_experts": ("num_experts_per_tok",),
}
"""Size -> the names under which architectures keep it in config.json."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that decide what it needs."""

    model_type: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied: bool
    positions: int = 0
    """Learned position vectors."""
    experts: int = 1
    used_experts: int = 1
    """How many experts run for each token."""

    @property
    def family(self) -> Family:
        return FAMILIES[self.model_type]

    @property
    def query_width(self) -> int:
        """The size of all query heads of a token together."""
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        """The size of all key heads of a token together, which is also that of its values."""
        return self.kv_heads * self.head_size

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The linear layers of one decoder layer."""
        family, (bias, mlp_bias) = self.family, self.family.bias
        last_bias = bias if family.output_bias is None else family.output_bias
        *projections, out = family.attention
        widths = [self.query_width, self.kv_width, self.kv_width] if len(projections) == 3 else [self.query_width + 2 * self.kv_width]
        attention = [Linear(name, self.hidden, width, bias) for name, width in zip(projections, widths, strict=True)]
        *inner, down = family.mlp
        width = self.intermediate * 2 if family.gated and len(inner) == 1 else self.intermediate
        mlp = [Linear(name, self.hidden, width, mlp_bias, self.experts) for name in inner]
        return (
            *attention,
            Linear(out, self.query_width, self.hidden, last_bias),
            *mlp,
            Linear(down, self.intermediate, self.hidden, mlp_bias, self.experts),
        )

    @property
    def linear_parameters(self) -> int:
        """The weights of all decoder layers' linear layers, without biases. NF4 stores these in 4 bits."""
        return self.layers * sum(linear.inputs * linear.outputs * linear.copies for linear in self.linears)

    @property
    def embedding_parameters(self) -> int:
        """Input and output embeddings, and learned positions."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.positions * self.hidden

    @property
    def parameters(self) -> int:
        """All numbers of the model."""
        family, of_a_norm = self.family, self.hidden * (2 if self.family.norm_bias else 1)
        biases = sum(linear.outputs * linear.copies for linear in self.linears if linear.bias)
        router = self.experts * self.hidden if self.experts > 1 else 0
        layer = family.norms * of_a_norm + biases + router + 2 * self.head_size * family.head_norms
        return self.linear_parameters + self.embedding_parameters + self.layers * layer + of_a_norm

    def adapted(self, lora: LoraSection) -> tuple[Linear, ...]:
        """The linear layers of one decoder layer that get an adapter, as PEFT reads `lora.target_modules`.

        PEFT's adapters do not reach experts, which transformers keeps as one tensor for all.
        """
        target, linears = lora.target_modules, tuple(linear for linear in self.linears if linear.copies == 1)
        if target == "all-linear":
            return linears
        if isinstance(target, str):
            return tuple(linear for linear in linears if re.fullmatch(target, f"model.layers.{self.layers - 1}.{linear.name}"))
        return tuple(linear for linear in linears if any(f".{linear.name}".endswith(f".{name}") for name in target))

    def adapted_layers(self, lora: LoraSection) -> int:
        """How many decoder layers get an adapter."""
        return self.layers - self.layers // 2 if lora.layers == "upper-half" else self.layers

    def adapter_parameters(self, lora: LoraSection) -> int:
        """The numbers of one LoRA adapter: rank x (inputs + outputs) for each adapted linear layer."""
        return self.adapted_layers(lora) * sum(lora.rank * (linear.inputs + linear.outputs) for linear in self.adapted(lora))


def read_shape(config: Mapping[str, Any], where: str = "config.json") -> Shape:
    """Return the shape that a config.json describes. Raises UserError for a family that is not known, or a size that is missing."""
    text: Mapping[str, Any] = config.get("text_config") or config
    model_type = str(text.get("model_type") or config.get("model_type"))
    if model_type not in FAMILIES:
        raise UserError(
            f"the shapes of models of type {model_type!r} are not known, so what they need cannot be predicted",
            where,
            f"the known types are {', '.join(FAMILIES)}; with another one, watch the memory of the first stages",
        )
    family = FAMILIES[model_type]

    def size(name: str, default: int | None = None) -> int:
        found = next((text[key] for key in _NAMES[name] if text.get(key) is not None), default)
        if found is None:
            raise UserError(f"the model's config does not say {_NAMES[name][0]}", where, "give the config.json that belongs to the model")
        return int(found)

    hidden, heads = size("hidden"), size("heads")
    experts = size("experts", 1)
    return Shape(
        model_type=model_type,
        layers=size("layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=size("kv_heads", heads),
        head_size=size("head_size", hidden // heads),
        intermediate=size("intermediate", 4 * hidden if family.conv1d else None),
        vocabulary=size("vocabulary"),
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", family.tied))),
        positions=int(text.get(family.positions, 1024)) + family.extra_positions if family.positions else 0,
        experts=experts,
        used_experts=size("used_experts", 1) if experts > 1 else 1,
    )


def embedded_config(config: BaseConfig) -> dict[str, Any]:
    """Return the config.json of the base that the run trains itself (tiny_base.py)."""
    return {
        "model_type": "llama",
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.hidden_size * 3,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "max_position_embeddings": MAX_POSITIONS,
        "tie_word_embeddings": True,
    }
