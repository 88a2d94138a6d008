"""The parts of a common decoder layer in fewer, larger operations: RMS norm, gated MLP, and attention on packed batches.

`fuse(decoder)` replaces the `forward` of the parts that it knows by name; each falls back to transformers' own where a case is not
its own (a quantized or trained weight, a KV cache, padding). Less is kept for the backward pass, too: an MLP keeps what enters its
activation, not what leaves it. `Backbone._probe` and the tests compare with transformers. Must never import PEFT.
Letters: N tokens, H hidden, I intermediate, B rows, L longest row, h heads, d head size. After Unsloth's kernels/fast_lora.py.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers.activations import SiLUActivation

from policies import lora
from policies.attention import PACKED, attend, causal_bias, is_short
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
        """With n = x s, s = 1 / rms: dx = s (g w - n mean(g w n))."""
        x, scale, weight = ctx.saved_tensors
        normed = x * scale
        grad_weight = (grad * normed).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        grad_x = grad * weight
        mean = (grad_x * normed).mean(-1, keepdim=True)
        return grad_x.sub_(normed.mul_(mean)).mul_(scale), grad_weight, None


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
        activated = nn.functional.silu(gate)
        grad_product, of_down = lora.gradients(activated * up, lora.Kept(low_down, merged_down), [down], grad, True)
        torch.mul(activated, grad_product, out=grad_up)
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
        grid = packing.spread_heads(heads)
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


def takes_only(attention: nn.Module) -> bool:
    """Whether this attention can be asked for some tokens `only`."""
    return type(attention).__name__ in _WINDOWS and "forward" in vars(attention)


def known_layer(layer: Any) -> bool:
    """Whether this is a fused decoder layer of Llama's form that sees all tokens before it, with nothing but frozen linear layers."""
    name = type(layer).__name__.removesuffix("DecoderLayer")
    parts = {"input_layernorm": "RMSNorm", "self_attn": "Attention", "post_attention_layernorm": "RMSNorm", "mlp": "MLP"}
    if any(type(getattr(layer, part, None)).__name__ != name + kind for part, kind in parts.items()) or not takes_only(layer.self_attn):
        return False
    linear = [module for part in (layer.self_attn, layer.mlp) for module in part.children() if hasattr(module, "out_features")]
    whole = _WINDOWS[name + "Attention"](layer.self_attn) is None and isinstance(layer.mlp.act_fn, SiLUActivation | nn.SiLU)
    return whole and len(linear) == 7 and all(frozen_linear(module) is not None for module in linear)


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


def _attention(self: Any, hidden_states: torch.Tensor, position_embeddings: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
    packing, cos, sin, only = kwargs.get("packing"), *position_embeddings, kwargs.pop("only", None)
    group = [frozen_linear(module) for module in (self.q_proj, self.k_proj, self.v_proj)]
    plain = [found for found in group if found is not None]
    if packing is None or len(plain) < len(group) or cos.shape[-1] != self.head_dim:
        arguments = {"position_embeddings": position_embeddings, "attention_mask": attention_mask} | kwargs
        out, weights = _own_attention(self, hidden_states, **arguments)
        return out if only is None else out[:, only], weights
    tensors, scalings = lora.flattened(plain)
    cos, sin = (part[0, :, None, : self.head_dim // 2] for part in (cos, sin))
    window = _WINDOWS[type(self).__name__](self)
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


_WINDOWS: dict[str, Callable[[Any], int | None]] = {
    "LlamaAttention": lambda attention: None,
    "MistralAttention": lambda attention: attention.config.sliding_window,
    "Qwen2Attention": lambda attention: attention.sliding_window,
}
_KNOWN: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"), _norm),
    **dict.fromkeys(("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP"), _mlp),
    **dict.fromkeys(_WINDOWS, _attention),
}


def _inverse_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    """[..., H] -> [..., 1]."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Turn [N, h, d] in place; cos and sin [N, 1, d / 2]."""
    first, second = heads.chunk(2, -1)
    turned = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(turned)
