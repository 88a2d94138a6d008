"""LoRA linear layers that share an input, in few large operations: y_i = x W_i^T + b_i + s_i (x A_i^T) B_i^T, and the gradients.

PEFT's layer does the same in seven operations with three temporaries as large as y. Its modules, names and files stay; only the
arithmetic is replaced (`backbone.py`, `fused.py`). Many tokens go through W_i + s_i B_i A_i, made for one pass; few through W_i, and
what the adapter adds is added. Must never import PEFT. Letters: N tokens, r rank, R all ranks of a group. Source: arXiv 2106.09685.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

TENSORS = 4
"""of a `Linear`, which come first in it."""
MERGE = 2
"""Merging costs in x out numbers, and saves N x (in + out): it is done where that is so many times as much."""
MERGED_SIZE = 2**17
"""Numbers in a group's weights up to which it is done: copies of larger ones do not stay in a core's cache, and add up."""


class Linear(NamedTuple):
    """One linear layer with what its adapter adds, if one is active. Weight and bias are frozen."""

    weight: torch.Tensor  # [out, in]
    bias: torch.Tensor | None  # [out]
    a: torch.Tensor | None = None  # [r, in]
    b: torch.Tensor | None = None  # [out, r]
    scaling: float = 1.0

    def merged(self, out: torch.Tensor) -> torch.Tensor:
        """W + s B A, written into `out` [out, in]."""
        if self.a is None or self.b is None:
            return out.copy_(self.weight)
        return torch.addmm(self.weight, self.b, self.a, alpha=self.scaling, out=out)


class Kept(NamedTuple):
    """What `gradients` needs of `apply`, besides x."""

    low: torch.Tensor | None = None  # [N, R]: x through all A of the group, each times its s; None: not yet worked out, or no adapter
    merged: torch.Tensor | None = None  # [sum of out, in]


def apply(x: torch.Tensor, group: Sequence[Linear]) -> tuple[torch.Tensor, Kept]:
    """x [N, in] -> all y_i side by side, [N, sum of out_i]."""
    sizes = [len(linear.weight) for linear in group]
    if _merges(x, group):
        merged = x.new_empty(sum(sizes), x.shape[1])
        for linear, part in zip(group, merged.split(sizes), strict=True):
            linear.merged(out=part)
        y, kept = torch.mm(x, merged.T), Kept(merged=merged)
    else:
        down = _stacked(group)
        kept = Kept(None if down is None else torch.mm(x, down.T))
        y, start = x.new_empty(len(x), sum(sizes)), 0
        for linear, columns in zip(group, y.split(sizes, 1), strict=True):
            torch.mm(x, linear.weight.T, out=columns)
            if kept.low is not None and linear.a is not None and linear.b is not None:
                columns.addmm_(kept.low[:, start : (start := start + len(linear.a))], linear.b.T)
    if any(linear.bias is not None for linear in group):
        for linear, columns in zip(group, y.split(sizes, 1), strict=True):
            if linear.bias is not None:
                columns += linear.bias
    return y, kept


def gradients(
    x: torch.Tensor, kept: Kept, group: Sequence[Linear], grad: torch.Tensor, wants_x: bool
) -> tuple[torch.Tensor | None, list[torch.Tensor | None]]:
    """From the gradient of `apply`'s y: that of x [N, in], and for every `Linear` those of its four tensors."""
    of_tensors: list[torch.Tensor | None] = [None] * (TENSORS * len(group))
    grads = grad.split([len(linear.weight) for linear in group], 1)
    adapted = [i for i, linear in enumerate(group) if linear.a is not None]
    ranks, down, grad_low = [len(group[i].a) for i in adapted], _stacked(group), None  # type: ignore[arg-type]
    if down is not None:
        low = torch.mm(x, down.T) if kept.low is None else kept.low
        grad_low = torch.empty_like(low)
        for i, part, grad_part in zip(adapted, low.split(ranks, 1), grad_low.split(ranks, 1), strict=True):
            torch.mm(grads[i], group[i].b, out=grad_part)  # type: ignore[arg-type]
            of_tensors[TENSORS * i + 3] = torch.mm(grads[i].T, part)
        for i, grad_a in zip(adapted, torch.mm(grad_low.T, x).split(ranks), strict=True):
            of_tensors[TENSORS * i + 2] = grad_a.mul_(group[i].scaling)
    if not wants_x:
        return None, of_tensors
    if kept.merged is not None:
        return torch.mm(grad, kept.merged), of_tensors
    grad_x = torch.mm(grads[0], group[0].weight)
    for linear, part in zip(group[1:], grads[1:], strict=True):
        grad_x.addmm_(part, linear.weight)
    return grad_x if down is None or grad_low is None else grad_x.addmm_(grad_low, down), of_tensors


def flattened(group: Sequence[Linear]) -> tuple[list[torch.Tensor | None], list[float]]:
    """The tensors of a group one after the other, as an autograd function takes and saves them, and its scalings."""
    return [tensor for linear in group for tensor in linear[:TENSORS]], [linear.scaling for linear in group]


def grouped(tensors: Sequence[Any], scalings: Sequence[float]) -> list[Linear]:
    """The inverse of `flattened`."""
    return [Linear(*tensors[TENSORS * i : TENSORS * (i + 1)], scaling) for i, scaling in enumerate(scalings)]


class LoraLinear(torch.autograd.Function):
    """x [..., in] -> [..., out] for a group of one. Gradients for x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scalings: list[float], *tensors: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y, kept = apply(flat, grouped(tensors, scalings))
        ctx.save_for_backward(flat, *kept, *tensors)
        ctx.scalings = scalings
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        flat, low, merged, *tensors = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1])
        grad_x, of_tensors = gradients(flat, Kept(low, merged), grouped(tensors, ctx.scalings), g, ctx.needs_input_grad[0])
        return grad_x if grad_x is None else grad_x.view(*grad.shape[:-1], -1), None, *of_tensors


def _merges(x: torch.Tensor, group: Sequence[Linear]) -> bool:
    """Whether it pays, and loses nothing: in less than float32 a small change to a weight is rounded away."""
    if x.dtype.itemsize < 4 or all(linear.a is None for linear in group):
        return False
    inside, outside = x.shape[1], sum(len(linear.weight) for linear in group)
    return inside * outside <= MERGED_SIZE and len(x) * (inside + outside) >= MERGE * inside * outside


def _stacked(group: Sequence[Linear]) -> torch.Tensor | None:
    """All A of the group below each other, each times its s, [R, in]."""
    downs = [linear.a * linear.scaling for linear in group if linear.a is not None]
    return torch.cat(downs) if downs else None
