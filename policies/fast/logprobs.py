"""Log-probabilities of tokens, without keeping their logits for the backward pass.

Letters: M tokens, H hidden, V vocabulary.
"""

from typing import Any

import torch
from torch.nn.functional import linear

from policies.fast.model import FastModel
from policies.fast.precision import widened

CHUNK = 2**23
"""The number of logits that exist at one time."""
SCALE = 2.0**10
"""Differences of probabilities are multiplied by this before they become float16, which knows no number below 6e-8."""


class LogProbs(torch.autograd.Function):
    """Log-probs [M] of `tokens` under softmax((states W^T + b) / T), for states [M, H] and a frozen head W [V, H], b [V].

    The backward pass needs no logits: d log p(t) / d state = (W_t - sum_v p_v W_v) / T is [M, H], and it is computed in the forward pass
    while the logits of a chunk exist. The idea is that of fused linear losses (arXiv 2410.10989, section 3.2).

    Below float32, it is sum_v (onehot_v - p_v) W_v / T, with the difference in float32. The mean of W would be rounded before it is
    subtracted, and for a token with p near 1 the rounding error is as large as the difference.
    """

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, tokens: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        size = max(1, CHUNK // len(weight))
        logprobs, slopes = [], []
        for part, chosen in zip(states.split(size), tokens.split(size), strict=True):
            logits = widened(linear(part, weight, bias)).div_(temperature)
            chosen_logits, largest = logits.gather(-1, chosen[:, None]), logits.amax(-1, keepdim=True)
            weights = logits.sub_(largest).exp_()
            total = weights.sum(-1, keepdim=True)
            logprobs.append((chosen_logits - largest - total.log())[:, 0])
            if ctx.needs_input_grad[0] and weight.dtype.itemsize < 4:
                scale = SCALE / temperature
                errors = weights.mul_(-scale / total).scatter_add_(-1, chosen[:, None], torch.full_like(total, scale))
                slopes.append((errors.to(weight.dtype) @ weight).div_(SCALE))
            elif ctx.needs_input_grad[0]:
                mean = (weights @ weight).div_(total)
                slopes.append((weight[chosen] - mean).div_(temperature))
        ctx.save_for_backward(*([torch.cat(slopes)] if slopes else []))
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        (slopes,) = ctx.saved_tensors
        return (slopes * grad[:, None]).to(slopes.dtype), None, None, None, None


def token_logprobs(model: FastModel, states: torch.Tensor, tokens: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the log-probs [M] of `tokens` [M], predicted from hidden states [M, H], with logits divided by the temperature."""
    if head := model.frozen_head:
        return LogProbs.apply(states, head.weight, head.bias, tokens, temperature)
    logits = model.logits(states) / temperature
    return logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
