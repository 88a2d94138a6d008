"""A common decoder layer and its parts in fewer, larger operations: RMS norm, gated MLP, and attention on packed batches.

`fuse(decoder)` replaces the `forward` of what it knows by name; each falls back to transformers' own where a case is not its own
(a quantized or trained weight, a KV cache, padding). Less is kept for the backward pass, too: an MLP keeps what enters its
activation, not what leaves it. `Backbone._probe` and the tests compare with transformers. Must never import PEFT.
Letters: N tokens, H hidden, I intermediate, B rows, L longest row, h heads, d head size. After Unsloth's kernels/fast_lora.py.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers.activations import SiLUActivation
from transformers.modeling_outputs import BaseModelOutputWithPast

from policies.fast import lora
from policies.fast.attention import PACKED, attend, causal_bias, is_short
from policies.tokenization import Packing


class RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * w over the last dimension. arXiv 1910.07467, equation 4."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        scale = _inverse_rms(x, eps)
        ctx.save_for_backward(x, scale, weight)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """With s = 1 / rms: dx = s (g w - x s^2 mean(g w x))."""
        x, scale, weight = ctx.saved_tensors
        grad_weight = (grad * x * scale).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        grad_x = grad * weight
        mean = (grad_x * x).mean(-1, keepdim=True).mul_(scale).mul_(scale)
        return grad_x.addcmul_(x, mean, value=-1).mul_(scale), grad_weight, None


class GatedMLP(torch.autograd.Function):
    """down(silu(gate(x)) * up(x)), x [N, H]. arXiv 2002.05202, equation 5 (SwiGLU without bias), with LoRA in all three."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scalings: list[float], *tensors: torch.Tensor) -> torch.Tensor:
        *inner, down = lora.grouped(tensors, scalings)
        both, kept = lora.apply(x, inner)
        gate, up = both.chunk(2, 1)
        y, kept_down = lora.apply(nn.functional.silu(gate).mul_(up), [down])
        ctx.save_for_backward(x, both, *kept, *kept_down, *tensors)
        ctx.scalings = scalings
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        x, both, low, merged, low_down, merged_down, *tensors = ctx.saved_tensors
        *inner, down = lora.grouped(tensors, ctx.scalings)
        (gate, up), grad_both = both.chunk(2, 1), torch.empty_like(both)
        grad_gate, grad_up = grad_both.chunk(2, 1)
        activated = torch.ops.aten.silu.out(gate, out=grad_up)  # until it is turned into that gradient; so is the product
        product = torch.mul(activated, up, out=grad_gate)
        grad_product, of_down = lora.gradients(product, lora.Kept(low_down, merged_down), [down], grad, True)
        grad_up.mul_(grad_product)
        torch.ops.aten.silu_backward.grad_input(grad_product.mul_(up), gate, grad_input=grad_gate)
        grad_x, of_inner = lora.gradients(x, lora.Kept(low, merged), inner, grad_both, ctx.needs_input_grad[0])
        return grad_x, None, *of_inner, *of_down


class RotatedHeads(torch.autograd.Function):
    """x [N, H] -> queries, keys, values [B, h, L, d]: projected, turned by their positions, laid out in rows padded right.

    cos and sin [N, 1, d / 2]. arXiv 2104.09864, equation 34, in the half-split layout of transformers.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, packing: Packing, scalings: list[float], *tensors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        group = lora.grouped(tensors, scalings)
        heads, kept = _projected(x, group, cos, sin)
        ctx.save_for_backward(x, *kept, cos, sin, *tensors)
        ctx.packing, ctx.scalings = packing, scalings
        grid = packing.spread(heads).transpose(1, 2)
        return grid.split([len(linear.weight) // heads.shape[-1] for linear in group], dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:  # type: ignore[override]
        x, low, merged, cos, sin, *tensors = ctx.saved_tensors
        flat = torch.cat([ctx.packing.collect(grad.transpose(1, 2).flatten(2)) for grad in grads], dim=1)
        kept, group = lora.Kept(low, merged), lora.grouped(tensors, ctx.scalings)
        grad_x, of_group = _back_projected(flat, x, kept, group, cos, sin, ctx.needs_input_grad[0])
        return grad_x, None, None, None, None, *of_group


class ShortAttention(torch.autograd.Function):
    """x [N, H] -> what causal attention finds within each row, [N, h d]: `RotatedHeads`, then three plain products and a softmax.

    For short rows on a CPU, and as many heads of keys as of queries. `bias` [L, L]: 0 where a token looks, -inf where it does not.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        packing: Packing,
        bias: torch.Tensor,
        scale: float,
        scalings: list[float],
        *tensors: torch.Tensor,
    ) -> torch.Tensor:
        heads, kept = _projected(x, lora.grouped(tensors, scalings), cos, sin)
        grid = packing.spread_heads(heads, zeros=False)  # no token looks at padding, which comes after it
        query, key, value = (part.flatten(0, 1) for part in grid.chunk(3))
        weights = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scale).softmax(-1)
        ctx.save_for_backward(x, *kept, cos, sin, grid, weights, *tensors)
        ctx.packing, ctx.scale, ctx.scalings = packing, scale, scalings
        return packing.collect_heads(torch.bmm(weights, value))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """With S = softmax(s q k^T + bias): dv = S^T g; d(s q k^T) = S (g v^T - rowsum(S g v^T)) = D; dq = s D k; dk = s D^T q."""
        x, low, merged, cos, sin, grid, weights, *tensors = ctx.saved_tensors
        query, key, value = (part.flatten(0, 1) for part in grid.chunk(3))
        of_grid = torch.empty_like(grid)
        of_query, of_key, of_value = (part.flatten(0, 1) for part in of_grid.chunk(3))
        g = ctx.packing.spread_heads(grad.unflatten(1, (-1, grid.shape[-1]))).flatten(0, 1)
        torch.bmm(weights.transpose(1, 2), g, out=of_value)
        of_scores = torch.ops.aten._softmax_backward_data(torch.bmm(g, value.transpose(1, 2)), weights, -1, weights.dtype)
        torch.baddbmm(of_query, of_scores, key, beta=0, alpha=ctx.scale, out=of_query)
        torch.baddbmm(of_key, of_scores.transpose(1, 2), query, beta=0, alpha=ctx.scale, out=of_key)
        flat, kept, group = ctx.packing.collect_heads(of_grid), lora.Kept(low, merged), lora.grouped(tensors, ctx.scalings)
        grad_x, of_group = _back_projected(flat, x, kept, group, cos, sin, ctx.needs_input_grad[0])
        return grad_x, None, None, None, None, None, None, *of_group


class Layer(torch.autograd.Function):
    """x [N, H] -> y = x + attention(norm(x)), then y + mlp(norm(y)), [N, H], or [M, H] for the tokens `only` [M]. All the above in one.

    For rows as in `ShortAttention`. `norms`: weight and epsilon of both; `attention`: what `ShortAttention` takes between x and scalings;
    `scalings` and `tensors`: of `_linear_layers`, in that order.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, only: torch.Tensor | None, norms: Any, attention: Any, scalings: list[float], *tensors: torch.Tensor
    ) -> torch.Tensor:
        wants_x, keeps = ctx.needs_input_grad[0], any(ctx.needs_input_grad)
        ctx.parts = parts = [Part(keeps, (wants, False)) for wants in (wants_x, wants_x, True, True, True)]
        normed = RMSNorm.forward(parts[0], x, *norms[0])
        attended = ShortAttention.forward(parts[1], normed, *attention, scalings[:3], *tensors[: 3 * lora.TENSORS])
        if only is not None:
            x, attended = x[only], attended[only]
        middle = lora.LoraLinear.forward(parts[2], attended, scalings[3:4], *tensors[3 * lora.TENSORS : 4 * lora.TENSORS]).add_(x)
        del x, attended
        normed = RMSNorm.forward(parts[3], middle, *norms[1])
        result = GatedMLP.forward(parts[4], normed, scalings[4:], *tensors[4 * lora.TENSORS :]).add_(middle)
        ctx.save_for_backward(only, *(tensor for part in parts for tensor in part.handed_over()))
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        only, *saved = ctx.saved_tensors
        norm, attention, out, second_norm, mlp = (part.given_back(saved) for part in ctx.parts)
        of_normed, _, *of_mlp = GatedMLP.backward(mlp, grad)
        grad = RMSNorm.backward(second_norm, of_normed)[0].add_(grad)
        of_attended, _, *of_out = lora.LoraLinear.backward(out, grad)
        if only is not None:
            nothing = grad.new_zeros(len(norm.saved_tensors[0]), grad.shape[1])
            grad, of_attended = nothing.index_copy(0, only, grad), nothing.index_copy_(0, only, of_attended)
        of_normed, *of_rest = ShortAttention.backward(attention, of_attended)
        of_x = RMSNorm.backward(norm, of_normed)[0].add_(grad) if ctx.needs_input_grad[0] else None
        return of_x, None, None, None, None, *of_rest[6:], *of_out, *of_mlp


class Part:
    """Stands in for autograd's `ctx` where one function runs inside another, whose `ctx` keeps the tensors."""

    def __init__(self, keeps: bool, needs_input_grad: Sequence[bool]):
        self.keeps, self.needs_input_grad = keeps, needs_input_grad
        self.saved_tensors: Sequence[Any] = ()

    def save_for_backward(self, *tensors: torch.Tensor | None) -> None:
        self.saved_tensors = tensors if self.keeps else ()

    def handed_over(self) -> Sequence[Any]:
        """What was saved, which from now on the function outside keeps."""
        tensors, self.saved_tensors, self.count = self.saved_tensors, (), len(self.saved_tensors)
        return tensors

    def given_back(self, tensors: list[Any]) -> "Part":
        """Takes its own from the front of `tensors`."""
        self.saved_tensors = tensors[: self.count]
        del tensors[: self.count]
        return self


def _projected(x: torch.Tensor, group: list[lora.Linear], cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, lora.Kept]:
    """x [N, H] -> queries, keys and values side by side [N, heads of all, d], the first two turned; and what `gradients` needs."""
    flat, kept = lora.apply(x, group)
    heads = flat.unflatten(1, (-1, 2 * cos.shape[-1]))
    rotate(heads[:, : -len(group[2].weight) // heads.shape[-1]], cos, sin)
    return heads, kept


def _back_projected(
    flat: torch.Tensor,
    x: torch.Tensor,
    kept: lora.Kept,
    group: list[lora.Linear],
    cos: torch.Tensor,
    sin: torch.Tensor,
    wants_x: bool,
) -> tuple[torch.Tensor | None, list[torch.Tensor | None]]:
    """From the gradients of `_projected`'s heads [N, all x d], which are turned back in place: those of x and of the group."""
    rotate(flat[:, : -len(group[2].weight)].unflatten(1, (-1, 2 * cos.shape[-1])), cos, -sin)
    return lora.gradients(x, kept, group, flat, wants_x)


def fuse(decoder: nn.Module) -> None:
    """Give the parts of the decoder that are known by name their faster forward, and other attention one that stays packed."""
    for module in decoder.modules():
        name = type(module).__name__
        known = _KNOWN.get(name) or (_own_attention if name.endswith("Attention") else None)
        if known:
            module.forward = MethodType(known, module)


def unfuse(decoder: nn.Module) -> None:
    """Give them back transformers' own."""
    for module in decoder.modules():
        if type(module).__name__ in _KNOWN or type(module).__name__.endswith("Attention"):
            vars(module).pop("forward", None)


def takes_only(module: nn.Module) -> bool:
    """Whether this decoder, layer or attention can be asked for some tokens `only`."""
    return _KNOWN.get(type(module).__name__) in (_decoder, _layer, _attention) and "forward" in vars(module)


def known_layer(layer: Any) -> bool:
    """Whether this is a fused decoder layer of Llama's form that sees all tokens before it, with nothing but frozen linear layers."""
    return takes_only(layer) and _linear_layers(layer) is not None and _window(layer.self_attn) is None


def _linear_layers(layer: Any) -> list[lora.Linear] | None:
    """Those of queries, keys, values, attention's output, gate, up and down; None: something in the layer is not frozen, or not known."""
    attention, mlp = layer.self_attn, layer.mlp
    modules = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    plain = [found for found in map(frozen_linear, modules) if found is not None]
    trained = layer.input_layernorm.weight.requires_grad or layer.post_attention_layernorm.weight.requires_grad
    return plain if len(plain) == 7 and not trained and isinstance(mlp.act_fn, SiLUActivation | nn.SiLU) else None


def frozen_linear(module: Any) -> lora.Linear | None:
    """A plain frozen linear layer, or one that `Backbone` marks as plain LoRA over one; None: something else."""
    if type(module) is nn.Linear:
        return None if module.weight.requires_grad else lora.Linear(module.weight, module.bias)
    return module.active_linear() if hasattr(module, "active_linear") else None


def _norm(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    if hidden_states.dtype.itemsize < 4 or self.weight.dtype != hidden_states.dtype:
        return type(self).forward(self, hidden_states)
    if torch.is_grad_enabled():
        return RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)
    return (hidden_states * _inverse_rms(hidden_states, self.variance_epsilon)).mul_(self.weight)


def _mlp(self: Any, x: torch.Tensor) -> torch.Tensor:
    group = [frozen_linear(module) for module in (self.gate_proj, self.up_proj, self.down_proj)]
    plain = [found for found in group if found is not None]
    if len(plain) < len(group) or not isinstance(self.act_fn, SiLUActivation | nn.SiLU):
        return type(self).forward(self, x)
    tensors, scalings = lora.flattened(plain)
    return GatedMLP.apply(x.reshape(-1, x.shape[-1]), scalings, *tensors).view_as(x)


def _decoder(
    self: Any, *args: Any, packing: Packing | None = None, first_layer: int = 0, only: torch.Tensor | None = None, **kwargs: Any
) -> Any:
    """On a packed batch the layers from `first_layer` on, which `inputs_embeds` enters, and the last one's second half for `only`."""
    if packing is None:
        return type(self).forward(self, *args, **kwargs)
    ids, states, positions = (kwargs.get(name) for name in ("input_ids", "inputs_embeds", "position_ids"))
    states = self.embed_tokens(ids) if states is None else states
    arguments = {"position_embeddings": self.rotary_emb(states, position_ids=positions), "position_ids": positions, "packing": packing}
    layers = list(self.layers)[first_layer:]
    for layer in layers:
        states = layer(states, only=only if layer is layers[-1] else None, **arguments)
    return BaseModelOutputWithPast(last_hidden_state=self.norm(states))


def _layer(self: Any, hidden_states: torch.Tensor, position_embeddings: Any = None, only: Any = None, **kwargs: Any) -> Any:
    packing, norms = kwargs.get("packing"), (self.input_layernorm, self.post_attention_layernorm)
    checkpointed = self.training and getattr(self, "gradient_checkpointing", False)
    if packing is not None and is_short(hidden_states, packing) and norms[0].weight.dtype == hidden_states.dtype and not checkpointed:
        found, heads = _linear_layers(self), self.self_attn
        if found is not None and len(found[0].weight) == len(found[1].weight) and position_embeddings[0].shape[-1] == heads.head_dim:
            bias = causal_bias(packing.shape[1], _window(heads), hidden_states.dtype, hidden_states.device)
            attention = (*_half_turns(position_embeddings), packing, bias, heads.scaling)
            tensors, scalings = lora.flattened(found)
            weights = [(norm.weight, norm.variance_epsilon) for norm in norms]
            return Layer.apply(hidden_states[0], only, weights, attention, scalings, *tensors)[None]
    kwargs["position_embeddings"] = position_embeddings
    return type(self).forward(self, hidden_states, **kwargs) if only is None else trimmed(self, hidden_states, only, **kwargs)


def trimmed(layer: Any, states: torch.Tensor, only: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """A decoder layer of the common form x + attention(norm(x)), then x + mlp(norm(x)), [1, N, H] -> [1, M, H]: its second half for
    some tokens only."""
    normed = layer.input_layernorm(states)
    if takes_only(layer.self_attn):
        states = states[:, only] + layer.self_attn(hidden_states=normed, only=only, **kwargs)[0]
    else:
        states = (states + layer.self_attn(hidden_states=normed, **kwargs)[0])[:, only]
    return states + layer.mlp(layer.post_attention_layernorm(states))


def _attention(self: Any, hidden_states: torch.Tensor, position_embeddings: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
    packing, cos, sin, only = kwargs.get("packing"), *position_embeddings, kwargs.pop("only", None)
    group = [frozen_linear(module) for module in (self.q_proj, self.k_proj, self.v_proj)]
    plain = [found for found in group if found is not None]
    if packing is None or len(plain) < len(group) or cos.shape[-1] != self.head_dim:
        arguments = {"position_embeddings": position_embeddings, "attention_mask": attention_mask} | kwargs
        out, weights = _own_attention(self, hidden_states, **arguments)
        return out if only is None else out[:, only], weights
    tensors, scalings = lora.flattened(plain)
    (cos, sin), window = _half_turns(position_embeddings), _window(self)
    if is_short(hidden_states, packing) and len(plain[0].weight) == len(plain[1].weight):
        bias = causal_bias(packing.shape[1], window, hidden_states.dtype, hidden_states.device)
        attended = ShortAttention.apply(hidden_states[0], cos, sin, packing, bias, self.scaling, scalings, *tensors)
    else:
        heads = RotatedHeads.apply(hidden_states[0], cos, sin, packing, scalings, *tensors)
        attended = attend(*heads, packing, self.scaling, window).flatten(1)
    return self.o_proj(attended if only is None else attended[only])[None], None


def _own_attention(self: Any, *args: Any, **kwargs: Any) -> Any:
    """transformers' own; packed where `packing` is given, also when gradient checkpointing runs it again in the backward pass."""
    if kwargs.get("packing") is None:
        return type(self).forward(self, *args, **kwargs)
    before, self.config._attn_implementation = self.config._attn_implementation, PACKED
    try:
        return type(self).forward(self, *args, **kwargs)
    finally:
        self.config._attn_implementation = before


def _window(attention: Any) -> int | None:
    """How many tokens back it sees; None: all."""
    return _WINDOWS[type(attention).__name__.removesuffix("Attention")](attention)


def _half_turns(position_embeddings: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
    """transformers' cos and sin, [1, N, d] each, which hold everything twice, as `rotate` takes them."""
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


def _inverse_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    """[..., H] -> [..., 1]."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.addcmul(_constant(eps, x.dtype, x.device), norm, norm, value=1.0 / x.shape[-1]).rsqrt_()


@lru_cache(maxsize=64)
def _constant(value: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.tensor([value], dtype=dtype, device=device)


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Turn [N, h, d] in place; cos and sin [N, 1, d / 2]."""
    first, second = heads.chunk(2, -1)
    turned = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(turned)
