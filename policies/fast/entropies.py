"""Entropies of the next token's distribution, without keeping logits for the backward pass.

Letters: M tokens, H hidden, V vocabulary.
"""

import torch
from torch.utils.checkpoint import checkpoint

from policies.fast.logprobs import CHUNK
from policies.fast.model import FastModel


def token_entropies(model: FastModel, states: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the entropies [M], in nats, of the distributions that hidden states [M, H] predict, with logits divided by the temperature.

    The logits of a part of the states are computed again for the backward pass, so only a part of them exists at one time.
    """

    def entropies(part: torch.Tensor) -> torch.Tensor:
        logprobs = (model.logits(part) / temperature).log_softmax(-1)
        return -(logprobs.exp() * logprobs).sum(-1)

    size = max(1, CHUNK // model.causal_lm.config.get_text_config().vocab_size)
    return torch.cat([checkpoint(entropies, part, use_reentrant=False, preserve_rng_state=False) for part in states.split(size)])
