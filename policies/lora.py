"""LoRA layers in fewer, larger operations: y = x W^T + b + s (x A^T) B^T and its gradients, added in place.

PEFT's layer does the same in seven operations with three temporaries as large as y. Its modules, names and files stay; only the
arithmetic of plain linear layers is replaced (`backbone.py`). Must never import PEFT. Letters: N tokens, r rank. Source: arXiv 2106.09685.
"""

from typing import Any

import torch
from torch import nn


class LoraLinear(torch.autograd.Function):
    """x [..., in], frozen weight [out, in] and bias, A [r, in], B [out, r] -> [..., out]. Gradients for x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, s: float):
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ a.T
        ctx.save_for_backward(flat, low, weight, a, b)
        ctx.scaling = s
        y = nn.functional.linear(flat, weight, bias).addmm_(low, b.T, alpha=s)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor):  # type: ignore[override]
        flat, low, weight, a, b = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1])
        g_low = (g @ b).mul_(ctx.scaling)
        grad_x = (g @ weight).addmm_(g_low, a).view(*grad.shape[:-1], -1) if ctx.needs_input_grad[0] else None
        grad_a = g_low.T @ flat if ctx.needs_input_grad[3] else None
        grad_b = (g.T @ low).mul_(ctx.scaling) if ctx.needs_input_grad[4] else None
        return grad_x, None, None, grad_a, grad_b, None
