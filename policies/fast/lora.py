"""LoRA linear layers that share an input, computed in few large operations.

    y_i = x W_i^T + b_i + s_i (x A_i^T) B_i^T        and the gradients of x, A_i and B_i

PEFT's layer does the same in seven operations with three temporaries as large as y. PEFT's modules, names and files stay; only the
arithmetic is replaced (see `adapters.py` and `layers.py`). There are two ways to compute a layer:
- Merged: for many tokens, W_i + s_i B_i A_i is computed once and used for the pass.
- Beside: for few tokens, x goes through W_i, and the adapter's part is added to the result.

A_i and B_i may be float32 where W_i is narrower. They are then cast to its dtype for a pass, and autograd casts their gradients back. The
adapter's part comes first, and the product with W_i is added to it, because a product adds in float32 and rounds once. In the other order,
x W_i^T would be rounded before, and a part of less than half of its last bit would be lost.

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
        down = _stacked(group, x.dtype)
        saved = Saved(None if down is None else torch.mm(x, down.T))
        y, start = x.new_empty(len(x), sum(sizes)), 0
        for linear, columns in zip(group, y.split(sizes, 1), strict=True):
            factors = [(x, linear.weight.T)]
            if saved.low is not None and linear.a is not None and linear.b is not None:
                factors.append((saved.low[:, start : (start := start + len(linear.a))], linear.b.T.to(x.dtype)))
            _add_products(factors, out=columns)
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
    down = _stacked(group, x.dtype)
    grad_tensors: list[torch.Tensor | None] = [None] * (TENSORS * len(group))
    grad_low = None if down is None else _adapter_gradients(x, saved, group, grads, down, grad_tensors)
    if not wants_x:
        return None, grad_tensors
    if saved.merged is not None:
        return torch.mm(grad, saved.merged), grad_tensors
    factors = [(part, linear.weight) for linear, part in zip(group, grads, strict=True)]
    if down is not None and grad_low is not None:
        factors.append((grad_low, down))
    return _add_products(factors, out=x.new_empty(x.shape)), grad_tensors


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
        torch.mm(grads[i], b.to(x.dtype), out=grad_part)
        grad_tensors[TENSORS * i + 3] = torch.mm(grads[i].T, part)
    for (i, _, _), grad_a in zip(adapted, torch.mm(grad_low.T, x).split(ranks), strict=True):
        grad_tensors[TENSORS * i + 2] = grad_a.mul_(group[i].scaling)
    return grad_low


def side_by_side(group: Sequence[Linear]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return a group's adapters as two matrices, so that x D U [N, sum of out] is what they add to all y_i. None if there is no adapter.

    D [in, R] has every s_i A_i^T. U [R, sum of out] has every B_i^T where R's rows meet the columns of y_i, and 0 elsewhere.
    """
    dtype = group[0].weight.dtype
    if (down := _stacked(group, dtype)) is None:
        return None
    ups = [linear.weight.new_empty(len(linear.weight), 0) if linear.b is None else linear.b.to(dtype) for linear in group]
    return down.T, torch.block_diag(*ups).T


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


def _add_products(factors: list[tuple[torch.Tensor, torch.Tensor]], out: torch.Tensor) -> torch.Tensor:
    """Write the sum of products into `out` and return it. Below float32, the last one, which is the adapter's, is the first (see above)."""
    first, *others = factors if out.dtype.itemsize >= 4 else [factors[-1], *factors[:-1]]
    torch.mm(*first, out=out)
    for factor in others:
        out.addmm_(*factor)
    return out


def _should_merge(x: torch.Tensor, group: Sequence[Linear]) -> bool:
    """Tell whether merging is faster and loses nothing: below float32, small changes to a weight would be rounded away."""
    if x.dtype.itemsize < 4 or all(linear.a is None for linear in group):
        return False
    inside, outside = x.shape[1], sum(len(linear.weight) for linear in group)
    return inside * outside <= MERGED_SIZE and len(x) * (inside + outside) >= MERGE * inside * outside


def _stacked(group: Sequence[Linear], dtype: torch.dtype) -> torch.Tensor | None:
    """Stack every A of the group, each times its s: [R, in]. None if there is no adapter."""
    downs = [linear.a * linear.scaling for linear in group if linear.a is not None]
    return torch.cat(downs).to(dtype) if downs else None
