"""Log-probs of response tokens under a role, at the temperature that they were sampled at.

Letters: B batch, R response tokens, M real response tokens of the batch (row after row), V vocabulary, H hidden.
"""

from typing import Any

import torch
from torch.nn.functional import linear

from policies.backbone import Backbone
from policies.tokenization import Batch

CHUNK = 2**23
"""Logits that exist at one time."""


class LogProbs(torch.autograd.Function):
    """Log-probs [M] of `tokens` under softmax((states W^T + b) / T), for states [M, H] and a frozen head W [V, H], b [V].

    Needs no logits for the backward pass: d log p(t) / d state = (W_t - sum_v p_v W_v) / T is [M, H], and is worked out in the forward
    pass while the chunk's logits are there. The idea of fused linear losses (arXiv 2410.10989, section 3.2).
    """

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, tokens: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        size = max(1, CHUNK // len(weight))
        logprobs, slopes = [], []
        for part, chosen in zip(states.split(size), tokens.split(size), strict=True):
            logits = _at_least_float32(linear(part, weight, bias)).div_(temperature)
            of_chosen, largest = logits.gather(-1, chosen[:, None]), logits.amax(-1, keepdim=True)
            weights = logits.sub_(largest).exp_()
            total = weights.sum(-1, keepdim=True)
            logprobs.append((of_chosen - largest - total.log())[:, 0])
            if ctx.needs_input_grad[0]:
                mean = (weights.to(weight.dtype) @ weight).div_(total.to(weight.dtype))
                slopes.append((weight[chosen] - mean).div_(temperature))
        ctx.save_for_backward(*([torch.cat(slopes)] if slopes else []))
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        (slopes,) = ctx.saved_tensors
        return slopes * grad[:, None].to(slopes.dtype), None, None, None, None


def response_states(backbone: Backbone, batch: Batch, lower: torch.Tensor | None = None) -> torch.Tensor:
    """The hidden states that predict the response tokens, [M, H]. `lower` as in `Backbone.hidden_states`."""
    packing = batch.predicting
    return backbone.hidden_states(batch, lower, only=packing.predictors, packing=packing)


def logprobs_of(backbone: Backbone, states: torch.Tensor, batch: Batch, temperature: float) -> torch.Tensor:
    """Log-probs of the response tokens, [B, R], 0 where masked, from their states [M, H].

    The temperature divides the logits here as it does in sampling (arXiv 2403.17031, section 7).
    """
    tokens = batch.input_ids[:, batch.prompt_length :][batch.response_mask]
    if head := backbone.frozen_head:
        return on_grid(LogProbs.apply(states, head.weight, head.bias, tokens, temperature), batch.response_mask)
    logits = backbone.logits(states) / temperature
    return on_grid(logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1), batch.response_mask)


def on_grid(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[M] as [B, R], 0 where masked."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def _at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    return logits.float() if logits.dtype.itemsize < 4 else logits
