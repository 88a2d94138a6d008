"""Log-probs of response tokens under a role, at the temperature that they were sampled at.

Letters: B batch, P prompt tokens, R response tokens, V vocabulary, H hidden.
"""

import torch

from policies.backbone import Backbone
from policies.tokenization import Batch


def response_states(backbone: Backbone, batch: Batch) -> torch.Tensor:
    """The hidden states that predict each response token, [B, R, H]: position P - 1 + t predicts token t."""
    P, R = batch.prompt_length, batch.response_mask.shape[1]
    return backbone.hidden_states(batch)[:, P - 1 : P - 1 + R]


def logprobs_of(backbone: Backbone, states: torch.Tensor, batch: Batch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probs, entropies) of the response tokens, both [B, R], 0 where masked.

    The temperature divides the logits here as it does in sampling (arXiv 2403.17031, detail 13).
    """
    mask = batch.response_mask
    logits = backbone.logits(states[mask]) / temperature
    distribution = torch.log_softmax(logits, dim=-1)
    tokens = batch.input_ids[:, batch.prompt_length :][mask]
    chosen = distribution.gather(-1, tokens[:, None])[:, 0]
    entropy = -(distribution.exp() * distribution).sum(-1).detach()
    empty = torch.zeros(mask.shape, dtype=chosen.dtype, device=chosen.device)
    return empty.masked_scatter(mask, chosen), empty.masked_scatter(mask, entropy)
