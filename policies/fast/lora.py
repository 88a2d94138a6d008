"""LoRA linear layers that share an input, computed in few large operations.

    y_i = x W_i^T + b_i + s_i (x A_i^T) B_i^T        and the gradients of x, A_i and B_i

PEFT's layer does the same in seven operations with three temporaries as large as y. PEFT's modules, names and files stay; only the
arithmetic is replaced (see `adapters.py` and `layers.py`). There are two ways to compute a layer:
- Merged: for many tokens, W_i + s_i B_i A_i is computed once and used for the pass.
- Beside: for few tokens, x goes through W_i, and the adapter's part is added to the result.

Letters: N tokens, r rank, R sum of the ranks of a group. Source: arXiv 2106.09685.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

TENSORS = 4
"""Tensors of a `Linear`. They come first among its fields."""
MERGE = 2
"""Merging computes in x out numbers and saves N x (in + out) of them. It is done if it saves at least this many times its cost."""
MERGED_SIZE = 2**17
"""The largest number of weights in a group that is merged. Larger copies do not fit into a core's cache, and they add up in memory."""


class Linear(NamedTuple):
    """One linear layer with the active adapter's matrices, if there is one. Weight and bias are frozen."""

    weight: torch.Tensor  # [out, in]
    bias: torch.Tensor | None  # [out]
    a: torch.Tensor | None = None  # [r, in]
    b: torch.Tensor | None = None  # [out, r]
    scaling: float = 1.0

    def merged(self, out: torch.Tensor) -> torch.Tensor:
        """Write W + s B A into `out` [out, in] and return it."""
        if self.a is None or self.b is None:
            return out.copy_(self.weight)
        return torch.addmm(self.weight, self.b, self.a, alpha=self.scaling, out=out)


class Saved(NamedTuple):
    """What `gradients` needs from `apply` besides x."""

    low: torch.Tensor | None = None  # [N, R]: x times every A of the group times its s; None: not computed, or no adapter
    merged: torch.Tensor | None = None  # [sum of out, in]: the merged weights; None: not merged


def apply(x: torch.Tensor, group: Sequence[Linear]) -> tuple[torch.Tensor, Saved]:
    """x [N, in] -> all y_i side by side, [N, sum of out_i]."""
    sizes = [len(linear.weight) for linear in group]
    if _should_merge(x, group):
        merged = x.new_empty(sum(sizes), x.shape[1])
        for linear, part in zip(group, merged.split(sizes), strict=True):
            linear.merged(out=part)
        y, saved = torch.mm(x, merged.T), Saved(merged=merged)
    else:
        down = _stacked(group)
        saved = Saved(None if down is None else torch.mm(x, down.T))
        y, start = x.new_empty(len(x), sum(sizes)), 0
        for linear, columns in zip(group, y.split(sizes, 1), strict=True):
            torch.mm(x, linear.weight.T, out=columns)
            if saved.low is not None and linear.a is not None and linear.b is not None:
                columns.addmm_(saved.low[:, start : (start := start + len(linear.a))], linear.b.T)
    for linear, columns in zip(group, y.split(sizes, 1), strict=True):
        if linear.bias is not None:
            columns += linear.bias
    return y, saved


def gradients(
    x: torch.Tensor, saved: Saved, group: Sequence[Linear], grad: torch.Tensor, wants_x: bool
) -> tuple[torch.Tensor | None, list[torch.Tensor | None]]:
    """From the gradient of `apply`'s y, return that of x [N, in], and for every `Linear` those of its four tensors.

    wants_x: whether the gradient of x is needed; without it None is returned in its place.
    """
    grads = grad.split([len(linear.weight) for linear in group], 1)
    down = _stacked(group)
    grad_tensors: list[torch.Tensor | None] = [None] * (TENSORS * len(group))
    grad_low = None if down is None else _adapter_gradients(x, saved, group, grads, down, grad_tensors)
    if not wants_x:
        return None, grad_tensors
    if saved.merged is not None:
        return torch.mm(grad, saved.merged), grad_tensors
    grad_x = torch.mm(grads[0], group[0].weight)
    for linear, part in zip(group[1:], grads[1:], strict=True):
        grad_x.addmm_(part, linear.weight)
    return grad_x if down is None or grad_low is None else grad_x.addmm_(grad_low, down), grad_tensors


def _adapter_gradients(
    x: torch.Tensor,
    saved: Saved,
    group: Sequence[Linear],
    grads: Sequence[torch.Tensor],
    down: torch.Tensor,
    grad_tensors: list[torch.Tensor | None],
) -> torch.Tensor:
    """Fill in the gradients of every A and B in `grad_tensors`. Returns the gradient of `Saved.low`, [N, R]."""
    adapted = [(i, linear.a, linear.b) for i, linear in enumerate(group) if linear.a is not None and linear.b is not None]
    ranks = [len(a) for _, a, _ in adapted]
    low = torch.mm(x, down.T) if saved.low is None else saved.low
    grad_low = torch.empty_like(low)
    for (i, _, b), part, grad_part in zip(adapted, low.split(ranks, 1), grad_low.split(ranks, 1), strict=True):
        torch.mm(grads[i], b, out=grad_part)
        grad_tensors[TENSORS * i + 3] = torch.mm(grads[i].T, part)
    for (i, _, _), grad_a in zip(adapted, torch.mm(grad_low.T, x).split(ranks), strict=True):
        grad_tensors[TENSORS * i + 2] = grad_a.mul_(group[i].scaling)
    return grad_low


def flattened(group: Sequence[Linear]) -> tuple[list[torch.Tensor | None], list[float]]:
    """Return the tensors of a group one after the other, as an autograd function takes and saves them, and the scalings."""
    return [tensor for linear in group for tensor in (linear.weight, linear.bias, linear.a, linear.b)], [linear.scaling for linear in group]


def grouped(tensors: Sequence[Any], scalings: Sequence[float]) -> list[Linear]:
    """The inverse of `flattened`."""
    return [Linear._make((*tensors[TENSORS * i : TENSORS * (i + 1)], scaling)) for i, scaling in enumerate(scalings)]


class LoraLinear(torch.autograd.Function):
    """x [..., in] -> [..., out] for a group of one layer. Gradients for x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scalings: list[float], *tensors: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y, saved = apply(flat, grouped(tensors, scalings))
        ctx.save_for_backward(flat, *saved, *tensors)
        ctx.scalings = scalings
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        flat, low, merged, *tensors = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1])
        grad_x, grad_tensors = gradients(flat, Saved(low, merged), grouped(tensors, ctx.scalings), g, ctx.needs_input_grad[0])
        return grad_x if grad_x is None else grad_x.view(*grad.shape[:-1], -1), None, *grad_tensors


def _should_merge(x: torch.Tensor, group: Sequence[Linear]) -> bool:
    """Tell whether merging is faster and loses nothing: below float32, small changes to a weight would be rounded away."""
    if x.dtype.itemsize < 4 or all(linear.a is None for linear in group):
        return False
    inside, outside = x.shape[1], sum(len(linear.weight) for linear in group)
    return inside * outside <= MERGED_SIZE and len(x) * (inside + outside) >= MERGE * inside * outside


def _stacked(group: Sequence[Linear]) -> torch.Tensor | None:
    """Stack every A of the group, each times its s: [R, in]. None if there is no adapter."""
    downs = [linear.a * linear.scaling for linear in group if linear.a is not None]
    return torch.cat(downs) if downs else None
