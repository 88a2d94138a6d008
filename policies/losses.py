"""The losses of PPO and how they are averaged, one function for each variant. Pure tensor functions, no model and no config.

    loss = sum of `summed(...)` over all parts of a minibatch / `divisor(...)` of the whole minibatch

A minibatch is divided among workers and micro-batches, so each part only has a sum. Letters: B batch, R response tokens. Masks are True (1)
where a token is kept. Values of masked places are finite, and they count nothing.
"""

import torch

# -- one value for each token -----------------------------------------------------------------------------------------------


def clipped_policy_loss(ratio: torch.Tensor, advantages: torch.Tensor, below: float, above: float | None = None) -> torch.Tensor:
    """-min(r A, clip(r, 1 - below, 1 + above) A), elementwise. arXiv 1707.06347, equation 7.

    above: None means the same as `below`. A larger one is "clip-higher" (DAPO, arXiv 2503.14476, section 3.1).
    """
    clipped = ratio.clamp(1.0 - below, 1.0 + (below if above is None else above))
    return torch.maximum(-advantages * ratio, -advantages * clipped)


def is_clipped(ratio: torch.Tensor, below: float, above: float | None = None) -> torch.Tensor:
    """Tell where the ratio is outside of the clip range, elementwise."""
    moved = ratio - 1.0
    return (moved > (below if above is None else above)) | (-moved > below)


def clipped_value_loss(values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip_range: float) -> torch.Tensor:
    """1/2 max((v - R)^2, (clip(v, v_old - eps, v_old + eps) - R)^2), elementwise."""
    clipped = torch.clamp(values, old_values - clip_range, old_values + clip_range)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


# -- the ratio to the policy that sampled -------------------------------------------------------------------------------------


def importance_ratio(log_ratio: torch.Tensor, mask: torch.Tensor, of: str) -> torch.Tensor:
    """Return the ratios [B, R] of the new to the old probabilities, from their logarithms [B, R].

    of: `token` for that of each token, `sequence` for that of its response (see `sequence_ratio`).
    """
    return sequence_ratio(log_ratio, mask) if of == "sequence" else torch.exp(log_ratio)


def sequence_ratio(log_ratio: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The geometric mean of the ratios of a response, for each of its tokens, [B, R]. GSPO, arXiv 2507.18071, equation 7."""
    return torch.exp(sequence_means(log_ratio, mask))[:, None].expand_as(log_ratio)


def sequence_means(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over the kept tokens of each row, [B]. Rows without one have 0."""
    return (values * mask).sum(1) / mask.sum(1).clamp(min=1)


# -- from tokens to one number ------------------------------------------------------------------------------------------------


def summed(values: torch.Tensor, mask: torch.Tensor, loss_type: str) -> torch.Tensor:
    """Sum [B, R] over kept tokens. With `sequence`, sum the means of the rows instead, so that each response has the same weight."""
    return sequence_means(values, mask).sum() if loss_type == "sequence" else (values * mask).sum()


def divisor(loss_type: str, num_tokens: torch.Tensor, num_responses: torch.Tensor, max_length: int) -> torch.Tensor:
    """Return what the sum over a minibatch is divided by.

    token: its tokens (DAPO, arXiv 2503.14476, section 3.3). sequence: its responses (arXiv 2402.03300, equation 3). dr_grpo: its
    responses, each as long as the longest that can be sampled, so that length changes no token's weight (arXiv 2503.20783, section 3.2).
    """
    if loss_type == "token":
        return num_tokens
    return num_responses if loss_type == "sequence" else num_responses * max_length
