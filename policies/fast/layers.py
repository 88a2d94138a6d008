"""Faster forward methods for the modules of transformers' decoders: RMS norm, gated MLP, attention, layer and the whole decoder.

`fuse(decoder)` replaces the `forward` of the modules that are known by their class names. Each method falls back to transformers' own
where it does not apply: a quantized or trained weight, a KV cache, padded input. `model.py` and the tests compare the results with
transformers'. Letters: N tokens, M chosen tokens, H hidden, d head size.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers.activations import SiLUActivation
from transformers.modeling_outputs import BaseModelOutputWithPast

from policies.fast import lora
from policies.fast.attention import UNPADDED, attend, causal_bias, is_short
from policies.fast.batches import Unpadded
from policies.fast.functions import GatedMLP, Layer, RMSNorm, RotatedHeads, ShortAttention, inverse_rms
from policies.fast.precision import wide_dtype


def fuse(decoder: nn.Module) -> None:
    """Give the modules that are known by name their faster forward, and all other attention modules one that can run unpadded."""
    for module in decoder.modules():
        name = type(module).__name__
        known = _KNOWN.get(name) or (_transformers_attention if name.endswith("Attention") else None)
        if known:
            module.forward = MethodType(known, module)


def unfuse(decoder: nn.Module) -> None:
    """Give these modules transformers' own forward back."""
    for module in decoder.modules():
        if type(module).__name__ in _KNOWN or type(module).__name__.endswith("Attention"):
            vars(module).pop("forward", None)


def takes_only(module: nn.Module) -> bool:
    """Tell whether this decoder, layer or attention module is fused and accepts `only`, the tokens to compute."""
    return _KNOWN.get(type(module).__name__) in (_decoder, _layer, _attention) and "forward" in vars(module)


def is_known_layer(layer: Any) -> bool:
    """Tell whether this is a fused layer of Llama's form with full attention whose linear layers are all frozen."""
    return takes_only(layer) and _linear_layers(layer) is not None and _window(layer.self_attn) is None


def frozen_linear(module: Any) -> lora.Linear | None:
    """Return a plain frozen linear layer, with its active adapter if it has one that is plain LoRA (see `adapters.py`). Else None."""
    if type(module) is nn.Linear:
        return None if module.weight.requires_grad else lora.Linear(module.weight, module.bias)
    return module.active_linear() if hasattr(module, "active_linear") else None


def trimmed(layer: Any, states: torch.Tensor, only: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Run a decoder layer on all tokens, but its second half only on the tokens `only` [M]: [1, N, H] -> [1, M, H].

    The layer must have the common form x + attention(norm(x)), then x + mlp(norm(x)).
    """
    normed = layer.input_layernorm(states)
    if takes_only(layer.self_attn):
        states = states[:, only] + layer.self_attn(hidden_states=normed, only=only, **kwargs)[0]
    else:
        states = (states + layer.self_attn(hidden_states=normed, **kwargs)[0])[:, only]
    return states + layer.mlp(layer.post_attention_layernorm(states))


# -- the forward methods --------------------------------------------------------------------------------------------------


def _norm(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    if self.weight.dtype != hidden_states.dtype:
        return type(self).forward(self, hidden_states)
    if torch.is_grad_enabled():
        return RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)
    return (hidden_states * inverse_rms(hidden_states, self.variance_epsilon)).mul_(self.weight).to(hidden_states.dtype)


def _mlp(self: Any, x: torch.Tensor) -> torch.Tensor:
    group = _frozen_group(self.gate_proj, self.up_proj, self.down_proj)
    if group is None or not isinstance(self.act_fn, SiLUActivation | nn.SiLU):
        return type(self).forward(self, x)
    tensors, scalings = lora.flattened(group)
    return GatedMLP.apply(x.reshape(-1, x.shape[-1]), scalings, *tensors).view_as(x)


def _decoder(
    self: Any, *args: Any, unpadded: Unpadded | None = None, first_layer: int = 0, only: torch.Tensor | None = None, **kwargs: Any
) -> Any:
    """On unpadded tokens, run the layers from `first_layer` on, which `inputs_embeds` enters; the last one's second half for `only`."""
    if unpadded is None:
        return type(self).forward(self, *args, **kwargs)
    ids, states, positions = (kwargs.get(name) for name in ("input_ids", "inputs_embeds", "position_ids"))
    states = self.embed_tokens(ids) if states is None else states
    arguments = {"position_embeddings": self.rotary_emb(states, position_ids=positions), "position_ids": positions, "unpadded": unpadded}
    layers = list(self.layers)[first_layer:]
    for layer in layers:
        states = layer(states, only=only if layer is layers[-1] else None, **arguments)
    return BaseModelOutputWithPast(last_hidden_state=self.norm(states))


def _layer(self: Any, hidden_states: torch.Tensor, position_embeddings: Any = None, only: Any = None, **kwargs: Any) -> Any:
    unpadded, norms = kwargs.get("unpadded"), (self.input_layernorm, self.post_attention_layernorm)
    checkpointed = self.training and getattr(self, "gradient_checkpointing", False)
    if unpadded is not None and is_short(hidden_states, unpadded) and norms[0].weight.dtype == hidden_states.dtype and not checkpointed:
        group, attention = _linear_layers(self), self.self_attn
        if group is not None and _is_plain_attention(attention, group, position_embeddings):
            bias = causal_bias(unpadded.shape[1], _window(attention), wide_dtype(hidden_states.dtype), hidden_states.device)
            arguments = (*_half_embeddings(position_embeddings), unpadded, bias, attention.scaling)
            tensors, scalings = lora.flattened(group)
            weights = [(norm.weight, norm.variance_epsilon) for norm in norms]
            return Layer.apply(hidden_states[0], only, weights, arguments, scalings, *tensors)[None]
    kwargs["position_embeddings"] = position_embeddings
    return type(self).forward(self, hidden_states, **kwargs) if only is None else trimmed(self, hidden_states, only, **kwargs)


def _attention(self: Any, hidden_states: torch.Tensor, position_embeddings: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
    unpadded, cos, only = kwargs.get("unpadded"), position_embeddings[0], kwargs.pop("only", None)
    group = _frozen_group(self.q_proj, self.k_proj, self.v_proj)
    if unpadded is None or group is None or cos.shape[-1] != self.head_dim:
        arguments = {"position_embeddings": position_embeddings, "attention_mask": attention_mask} | kwargs
        out, weights = _transformers_attention(self, hidden_states, **arguments)
        return out if only is None else out[:, only], weights
    tensors, scalings = lora.flattened(group)
    (cos, sin), window = _half_embeddings(position_embeddings), _window(self)
    if is_short(hidden_states, unpadded) and _is_plain_attention(self, group, position_embeddings):
        bias = causal_bias(unpadded.shape[1], window, wide_dtype(hidden_states.dtype), hidden_states.device)
        attended = ShortAttention.apply(hidden_states[0], cos, sin, unpadded, bias, self.scaling, scalings, *tensors)
    else:
        query, key, value = RotatedHeads.apply(hidden_states[0], cos, sin, unpadded, scalings, *tensors)
        attended = attend(query, key, value, unpadded, self.scaling, window).flatten(1)
    return self.o_proj(attended if only is None else attended[only])[None], None


def _transformers_attention(self: Any, *args: Any, **kwargs: Any) -> Any:
    """transformers' own forward, unpadded if `unpadded` is given, also when gradient checkpointing repeats it for the backward pass."""
    if kwargs.get("unpadded") is None:
        return type(self).forward(self, *args, **kwargs)
    before, self.config._attn_implementation = self.config._attn_implementation, UNPADDED
    try:
        return type(self).forward(self, *args, **kwargs)
    finally:
        self.config._attn_implementation = before


# -- what they ask about a module -----------------------------------------------------------------------------------------


def _linear_layers(layer: Any) -> list[lora.Linear] | None:
    """Return those of queries, keys, values, attention's output, gate, up and down. None if something is trained or not known."""
    attention, mlp = layer.self_attn, layer.mlp
    if layer.input_layernorm.weight.requires_grad or layer.post_attention_layernorm.weight.requires_grad:
        return None
    if not isinstance(mlp.act_fn, SiLUActivation | nn.SiLU):
        return None
    projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    return _frozen_group(*projections, mlp.gate_proj, mlp.up_proj, mlp.down_proj)


def _frozen_group(*modules: Any) -> list[lora.Linear] | None:
    """Return `frozen_linear` of each module, or None if it is None for one of them."""
    group = [found for found in map(frozen_linear, modules) if found is not None]
    return group if len(group) == len(modules) else None


def _is_plain_attention(attention: Any, group: list[lora.Linear], position_embeddings: Any) -> bool:
    """Tell whether there are as many key heads as query heads, and the rotary embedding covers the whole head."""
    return len(group[0].weight) == len(group[1].weight) and position_embeddings[0].shape[-1] == attention.head_dim


def _window(attention: Any) -> int | None:
    """Return how many tokens back this attention module sees; None means all of them."""
    return _WINDOWS[type(attention).__name__.removesuffix("Attention")](attention)


def _half_embeddings(position_embeddings: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
    """Return transformers' cos and sin [1, N, d], which hold every number twice, in the form of `rotate`, [N, 1, d / 2]."""
    return [part[0, :, None, : part.shape[-1] // 2] for part in position_embeddings]


_WINDOWS: dict[str, Callable[[Any], int | None]] = {
    "Llama": lambda attention: None,
    "Mistral": lambda attention: attention.config.sliding_window,
    "Qwen2": lambda attention: attention.sliding_window,
}
_KNOWN: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"), _norm),
    **dict.fromkeys(("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP"), _mlp),
    **{f"{name}Attention": _attention for name in _WINDOWS},
    **{f"{name}DecoderLayer": _layer for name in _WINDOWS},
    **{f"{name}Model": _decoder for name in _WINDOWS},
}
