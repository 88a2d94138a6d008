"""The parts of a decoder layer of Llama's form as autograd functions with few, large operations.

They save less for the backward pass than the modules that they replace. For example, a gated MLP saves what enters its activation and
not what leaves it. The tests compare every gradient with finite differences. After Unsloth's kernels/fast_lora.py.

Letters: N tokens, M chosen tokens, H hidden, B rows, L longest row, h heads, d head size.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from policies.fast import lora
from policies.fast.batches import Unpadded
from policies.fast.precision import wide_dtype, widened


class RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * w over the last dimension. arXiv 1910.07467, equation 4."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        scale = inverse_rms(x, eps)
        ctx.save_for_backward(x, scale, weight)
        return (x * scale).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """With s = 1 / rms: dx = s (g w - x s^2 mean(g w x))."""
        x, scale, weight = ctx.saved_tensors
        grad_weight = (grad * x * scale).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        grad_x = widened(grad) * weight
        mean = (grad_x * x).mean(-1, keepdim=True).mul_(scale).mul_(scale)
        return grad_x.addcmul_(x, mean, value=-1).mul_(scale).to(x.dtype), grad_weight, None


class GatedMLP(torch.autograd.Function):
    """down(silu(gate(x)) * up(x)) for x [N, H]. arXiv 2002.05202, equation 5 (SwiGLU without bias), with LoRA in all three layers."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scalings: list[float], *tensors: torch.Tensor) -> torch.Tensor:
        *inner, down = lora.grouped(tensors, scalings)
        both, saved = lora.apply(x, inner)
        gate, up = both.chunk(2, 1)
        y, saved_down = lora.apply(nn.functional.silu(gate).mul_(up), [down])
        ctx.save_for_backward(x, both, *saved, *saved_down, *tensors)
        ctx.scalings = scalings
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        x, both, low, merged, low_down, merged_down, *tensors = ctx.saved_tensors
        *inner, down = lora.grouped(tensors, ctx.scalings)
        (gate, up), grad_both = both.chunk(2, 1), torch.empty_like(both)
        grad_gate, grad_up = grad_both.chunk(2, 1)
        activated = torch.ops.aten.silu.out(gate, out=grad_up)  # both buffers are reused: the gradients overwrite them below
        product = torch.mul(activated, up, out=grad_gate)
        grad_product, grads_down = lora.gradients(product, lora.Saved(low_down, merged_down), [down], grad, True)
        assert grad_product is not None
        grad_up.mul_(grad_product)
        torch.ops.aten.silu_backward.grad_input(grad_product.mul_(up), gate, grad_input=grad_gate)
        grad_x, grads_inner = lora.gradients(x, lora.Saved(low, merged), inner, grad_both, ctx.needs_input_grad[0])
        return grad_x, None, *grads_inner, *grads_down


class RotatedHeads(torch.autograd.Function):
    """x [N, H] -> queries, keys, values [B, h, L, d]: projected, given their rotary embedding, and padded on the right.

    cos and sin [N, 1, d / 2]. Rotary embedding: arXiv 2104.09864, equation 34, in the half-split layout of transformers.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unpadded: Unpadded, scalings: list[float], *tensors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        group = lora.grouped(tensors, scalings)
        heads, saved = _projected(x, group, cos, sin)
        ctx.save_for_backward(x, *saved, cos, sin, *tensors)
        ctx.unpadded, ctx.scalings = unpadded, scalings
        grid = unpadded.pad(heads).transpose(1, 2)
        return grid.split([len(linear.weight) // heads.shape[-1] for linear in group], dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:  # type: ignore[override]
        x, low, merged, cos, sin, *tensors = ctx.saved_tensors
        flat = torch.cat([ctx.unpadded.unpad(grad.transpose(1, 2).flatten(2)) for grad in grads], dim=1)
        saved, group = lora.Saved(low, merged), lora.grouped(tensors, ctx.scalings)
        grad_x, grads_group = _projected_backward(flat, x, saved, group, cos, sin, ctx.needs_input_grad[0])
        return grad_x, None, None, None, None, *grads_group


class ShortAttention(torch.autograd.Function):
    """x [N, H] -> causal attention within each row, [N, h d]: `RotatedHeads`, then plain matrix products and a softmax.

    For short rows on a CPU, if there are as many key heads as query heads. bias [L, L]: 0 where a token attends, -inf where it does not.
    What comes after the projections is at least float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        unpadded: Unpadded,
        bias: torch.Tensor,
        scale: float,
        scalings: list[float],
        *tensors: torch.Tensor,
    ) -> torch.Tensor:
        heads, saved = _projected(x, lora.grouped(tensors, scalings), cos, sin, wide=True)
        grid = unpadded.pad_heads(heads, zeros=False)  # no token attends to padding, because padding comes after it
        query, key, value = (part.flatten(0, 1) for part in grid.chunk(3))
        weights = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scale).softmax(-1)
        ctx.save_for_backward(x, *saved, cos, sin, grid, weights, *tensors)
        ctx.unpadded, ctx.scale, ctx.scalings = unpadded, scale, scalings
        return unpadded.unpad_heads(torch.bmm(weights, value)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """With S = softmax(s q k^T + bias): dv = S^T g; d(s q k^T) = S (g v^T - rowsum(S g v^T)) = D; dq = s D k; dk = s D^T q."""
        x, low, merged, cos, sin, grid, weights, *tensors = ctx.saved_tensors
        query, key, value = (part.flatten(0, 1) for part in grid.chunk(3))
        grad_grid = torch.empty_like(grid)
        grad_query, grad_key, grad_value = (part.flatten(0, 1) for part in grad_grid.chunk(3))
        g = ctx.unpadded.pad_heads(widened(grad).unflatten(1, (-1, grid.shape[-1]))).flatten(0, 1)
        torch.bmm(weights.transpose(1, 2), g, out=grad_value)
        grad_scores = torch.ops.aten._softmax_backward_data(torch.bmm(g, value.transpose(1, 2)), weights, -1, weights.dtype)
        torch.baddbmm(grad_query, grad_scores, key, beta=0, alpha=ctx.scale, out=grad_query)
        torch.baddbmm(grad_key, grad_scores.transpose(1, 2), query, beta=0, alpha=ctx.scale, out=grad_key)
        flat, saved, group = ctx.unpadded.unpad_heads(grad_grid), lora.Saved(low, merged), lora.grouped(tensors, ctx.scalings)
        grad_x, grads_group = _projected_backward(flat, x, saved, group, cos, sin, ctx.needs_input_grad[0])
        return grad_x, None, None, None, None, None, None, *grads_group


class Layer(torch.autograd.Function):
    """A whole decoder layer: y = x + attention(norm(x)), then y + mlp(norm(y)). x [N, H] -> [N, H], or [M, H] for the tokens `only` [M].

    For the rows that `ShortAttention` takes. norms: weight and epsilon of both norms. attention: the arguments of `ShortAttention` between
    x and scalings. scalings and tensors: those of the linear layers of queries, keys, values, attention's output, gate, up and down.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, only: torch.Tensor | None, norms: Any, attention: Any, scalings: list[float], *tensors: torch.Tensor
    ) -> torch.Tensor:
        wants_x, saves = ctx.needs_input_grad[0], any(ctx.needs_input_grad)
        ctx.parts = parts = [InnerContext(saves, (wants, False)) for wants in (wants_x, wants_x, True, True, True)]
        normed = RMSNorm.forward(parts[0], x, *norms[0])
        attended = ShortAttention.forward(parts[1], normed, *(*attention, scalings[:3], *tensors[: 3 * lora.TENSORS]))
        if only is not None:
            x, attended = x[only], attended[only]
        middle = lora.LoraLinear.forward(parts[2], attended, scalings[3:4], *tensors[3 * lora.TENSORS : 4 * lora.TENSORS]).add_(x)
        del x, attended
        normed = RMSNorm.forward(parts[3], middle, *norms[1])
        result = GatedMLP.forward(parts[4], normed, scalings[4:], *tensors[4 * lora.TENSORS :]).add_(middle)
        ctx.save_for_backward(only, *(tensor for part in parts for tensor in part.release()))
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        only, *saved = ctx.saved_tensors
        norm, attention, out, second_norm, mlp = (part.take_back(saved) for part in ctx.parts)
        grad_normed, _, *grads_mlp = GatedMLP.backward(mlp, grad)
        grad = RMSNorm.backward(second_norm, grad_normed)[0].add_(grad)
        grad_attended, _, *grads_out = lora.LoraLinear.backward(out, grad)
        if only is not None:
            nothing = grad.new_zeros(len(norm.saved_tensors[0]), grad.shape[1])
            grad, grad_attended = nothing.index_copy(0, only, grad), nothing.index_copy_(0, only, grad_attended)
        grad_normed, *grads_attention = ShortAttention.backward(attention, grad_attended)
        grad_x = RMSNorm.backward(norm, grad_normed)[0].add_(grad) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, None, None, *grads_attention[6:], *grads_out, *grads_mlp


class InnerContext:
    """Stands in for autograd's `ctx` where one function runs inside another. The outer function's `ctx` saves the tensors."""

    def __init__(self, saves: bool, needs_input_grad: Sequence[bool]):
        self.saves, self.needs_input_grad = saves, needs_input_grad
        self.saved_tensors: Sequence[Any] = ()

    def save_for_backward(self, *tensors: torch.Tensor | None) -> None:
        """As autograd's, but saves nothing if there will be no backward pass."""
        self.saved_tensors = tensors if self.saves else ()

    def release(self) -> Sequence[Any]:
        """Give up the saved tensors and return them, for the outer function to save."""
        tensors, self.saved_tensors, self.count = self.saved_tensors, (), len(self.saved_tensors)
        return tensors

    def take_back(self, tensors: list[Any]) -> "InnerContext":
        """Remove the tensors of this context from the front of the outer function's list."""
        self.saved_tensors = tensors[: self.count]
        del tensors[: self.count]
        return self


def _projected(
    x: torch.Tensor, group: list[lora.Linear], cos: torch.Tensor, sin: torch.Tensor, wide: bool = False
) -> tuple[torch.Tensor, lora.Saved]:
    """x [N, H] -> queries, keys and values side by side [N, heads of all, d], and what `lora.gradients` needs.

    Queries and keys have their rotary embedding. wide: return and rotate them in at least float32.
    """
    flat, saved = lora.apply(x, group)
    heads = (widened(flat) if wide else flat).unflatten(1, (-1, 2 * cos.shape[-1]))
    rotate(heads[:, : -len(group[2].weight) // heads.shape[-1]], cos, sin)
    return heads, saved


def _projected_backward(
    flat: torch.Tensor,
    x: torch.Tensor,
    saved: lora.Saved,
    group: list[lora.Linear],
    cos: torch.Tensor,
    sin: torch.Tensor,
    wants_x: bool,
) -> tuple[torch.Tensor | None, list[torch.Tensor | None]]:
    """From the gradients of `_projected`'s heads [N, all x d], return those of x and of the group's tensors. Changes `flat` in place."""
    rotate(flat[:, : -len(group[2].weight)].unflatten(1, (-1, 2 * cos.shape[-1])), cos, -sin)
    return lora.gradients(x, saved, group, flat.to(x.dtype), wants_x)


def inverse_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    """1 / sqrt(mean(x^2) + eps) over the last dimension, [..., H] -> [..., 1], in at least float32."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide_dtype(x.dtype))
    return torch.addcmul(_constant(eps, norm.dtype, x.device), norm, norm, value=1.0 / x.shape[-1]).rsqrt_()


@lru_cache(maxsize=64)
def _constant(value: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.tensor([value], dtype=dtype, device=device)


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Apply the rotary embedding to heads [N, h, d] in place; cos and sin [N, 1, d / 2]."""
    first, second = heads.chunk(2, -1)
    rotated = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(rotated)
