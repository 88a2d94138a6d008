"""Log-probs of response tokens under a role, at the temperature that they were sampled at.

Letters: B batch, R response tokens, M real response tokens of the batch (row after row), V vocabulary, H hidden.
"""

import torch

from policies.backbone import Backbone
from policies.tokenization import Batch


def response_states(backbone: Backbone, batch: Batch, lower: torch.Tensor | None = None) -> torch.Tensor:
    """The hidden states that predict the response tokens, [M, H]. `lower` as in `Backbone.hidden_states`."""
    return backbone.hidden_states(batch, lower, only=batch.packing.predictors)


def logprobs_of(backbone: Backbone, states: torch.Tensor, batch: Batch, temperature: float) -> torch.Tensor:
    """Log-probs of the response tokens, [B, R], 0 where masked, from their states [M, H].

    The temperature divides the logits here as it does in sampling (arXiv 2403.17031, detail 13).
    """
    tokens = batch.input_ids[:, batch.prompt_length :][batch.response_mask]
    logits = backbone.logits(states) / temperature
    return on_grid(logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1), batch.response_mask)


def on_grid(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[M] as [B, R], 0 where masked."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)
