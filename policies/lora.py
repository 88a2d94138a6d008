"""LoRA linear layers that share an input, in few large operations: y_i = x W_i^T + b_i + s_i (x A_i^T) B_i^T, and the gradients.

PEFT's layer does the same in seven operations with three temporaries as large as y. Its modules, names and files stay; only the
arithmetic is replaced (`backbone.py`, `fused.py`). Must never import PEFT. Letters: N tokens, r rank, R all ranks of a group.
Source: arXiv 2106.09685.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

TENSORS = 4
"""of a `Linear`, which come first in it."""


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


def lower(x: torch.Tensor, group: Sequence[Linear]) -> torch.Tensor | None:
    """x [N, in] through all A of the group at once, each times its s, [N, R]."""
    down = _stacked(group)
    return None if down is None else _scale(x @ down.T, group)


def apply(x: torch.Tensor, low: torch.Tensor | None, group: Sequence[Linear], out: torch.Tensor | None = None) -> list[torch.Tensor]:
    """x [N, in] -> y_i [N, out_i] each; written side by side into `out` [N, sum of out_i], where it is given."""
    results, start, column = [], 0, 0
    for linear in group:
        if out is None:
            y = nn.functional.linear(x, linear.weight, linear.bias)
        else:
            y = out[:, column : (column := column + len(linear.weight))]
            torch.mm(x, linear.weight.T, out=y)
            if linear.bias is not None:
                y += linear.bias
        if linear.a is not None and linear.b is not None and low is not None:
            y.addmm_(low[:, start : (start := start + len(linear.a))], linear.b.T)
        results.append(y)
    return results


def gradients(
    x: torch.Tensor, low: torch.Tensor | None, group: Sequence[Linear], grads: Sequence[torch.Tensor], wants_x: bool
) -> tuple[torch.Tensor | None, list[torch.Tensor | None]]:
    """From the gradients of all y_i: that of x [N, in], and for every `Linear` those of its four tensors."""
    of_tensors: list[torch.Tensor | None] = [None] * (TENSORS * len(group))
    down, adapted = _stacked(group), [i for i, linear in enumerate(group) if linear.a is not None]
    grad_low = torch.empty_like(low) if low is not None else None
    if low is not None and grad_low is not None:
        columns = list(zip(*(t.split([len(group[i].a) for i in adapted], 1) for t in (low, grad_low)), strict=True))  # type: ignore[arg-type]
        for i, (part, grad_part) in zip(adapted, columns, strict=True):
            torch.mm(grads[i], group[i].b, out=grad_part)  # type: ignore[arg-type]
            of_tensors[TENSORS * i + 3] = (part.T @ grads[i]).T
        for i, grad_a in zip(adapted, (_scale(grad_low, group).T @ x).split([len(group[i].a) for i in adapted]), strict=True):  # type: ignore[arg-type]
            of_tensors[TENSORS * i + 2] = grad_a
    if not wants_x:
        return None, of_tensors
    grad_x = grads[0] @ group[0].weight
    for linear, grad in zip(group[1:], grads[1:], strict=True):
        grad_x.addmm_(grad, linear.weight)
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
        flat, group = x.reshape(-1, x.shape[-1]), grouped(tensors, scalings)
        low = lower(flat, group)
        ctx.save_for_backward(flat, low, *tensors)
        ctx.scalings = scalings
        return apply(flat, low, group)[0].view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        flat, low, *tensors = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1])
        grad_x, of_tensors = gradients(flat, low, grouped(tensors, ctx.scalings), [g], ctx.needs_input_grad[0])
        return grad_x if grad_x is None else grad_x.view(*grad.shape[:-1], -1), None, *of_tensors


def _scale(low: torch.Tensor, group: Sequence[Linear]) -> torch.Tensor:
    """Multiply in place each layer's columns of [N, R] by its s."""
    adapted = [linear for linear in group if linear.a is not None]
    if len({linear.scaling for linear in adapted}) == 1:
        return low.mul_(adapted[0].scaling)
    for linear, columns in zip(adapted, low.split([len(linear.a) for linear in adapted], 1), strict=True):  # type: ignore[arg-type]
        columns *= linear.scaling
    return low


def _stacked(group: Sequence[Linear]) -> torch.Tensor | None:
    """All A of the group below each other, [R, in]."""
    downs = [linear.a for linear in group if linear.a is not None]
    return torch.cat(downs) if len(downs) > 1 else downs[0] if downs else None
