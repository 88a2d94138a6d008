"""From scores to advantages: KL, reward shaping, GAE, whitening. Pure tensor functions, no model and no config.

Letters: B batch, R response tokens. Masks are True (1) where a token is kept.
"""

from collections.abc import Callable

import torch

Reduce = Callable[[torch.Tensor], torch.Tensor]
"""Sums a tensor over the data-parallel workers. With one worker it is the identity."""


def identity(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor itself."""
    return tensor


def kl_per_token(logprobs: torch.Tensor, reference: torch.Tensor, estimator: str = "k1") -> torch.Tensor:
    """Estimate KL(policy || reference) from samples of the policy, [B, R] -> [B, R], in nats.

    k1 = log p - log q; k2 = (log p - log q)^2 / 2; k3 = q/p - 1 - log(q/p). The last two are never negative (Schulman, "Approximating KL
    divergence", 2020; k3 is also equation 4 of arXiv 2402.03300).
    """
    log_ratio = logprobs - reference
    if estimator == "k1":
        return log_ratio
    return 0.5 * log_ratio**2 if estimator == "k2" else torch.expm1(-log_ratio) + log_ratio


def shape_rewards(scores: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, kl_coefficient: float) -> torch.Tensor:
    """Return per-token rewards [B, R]: -coefficient x KL for every token, plus the score [B] for the last real token.

    arXiv 1909.08593, equation 2. Rows without a real token get no score.
    """
    rewards = -kl_coefficient * kl * mask
    lengths = mask.sum(1)
    rows = torch.arange(len(scores), device=scores.device)[lengths > 0]
    rewards[rows, lengths[rows] - 1] += scores[rows]
    return rewards


def generalized_advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return advantages and returns, [B, R] each, by GAE (arXiv 1506.02438, equations 11 and 16).

    The state after the last real token is worth 0.
    """
    values = values * mask
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        next_values = values[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(following)
        delta = rewards[:, t] + gamma * next_values - values[:, t]
        following = (delta + gamma * lam * following) * mask[:, t]
        advantages[:, t] = following
    return advantages, advantages + values


def group_advantages(
    totals: torch.Tensor, group_size: int, estimator: str, scale: str = "group", reduce: Reduce = identity
) -> torch.Tensor:
    """Return advantages [B] of whole responses with total rewards [B]. Each `group_size` responses in a row answer the same prompt.

    rloo: the total minus the mean of the others in the group (arXiv 2402.14740, equation 7). grpo: the total minus the group's mean,
    divided by a standard deviation + 1e-4 (the constant is TRL's): the group's (arXiv 2402.03300, section 4.1.2), that of all workers'
    totals with `scale="batch"` (arXiv 2508.08221), or by nothing with `scale="none"` (Dr. GRPO, arXiv 2503.20783, section 3.2).
    """
    groups = totals.view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    if estimator == "rloo":
        return (centred * (group_size / (group_size - 1))).flatten()
    if scale == "none":
        return centred.flatten()
    deviations = groups.std(1, keepdim=True) if scale == "group" else standard_deviation(totals, reduce)
    return (centred / (deviations + 1e-4)).flatten()


def standard_deviation(values: torch.Tensor, reduce: Reduce = identity) -> torch.Tensor:
    """Return the sample standard deviation of the values [B] of all workers."""
    number = reduce(values.new_tensor([len(values)]))
    mean = reduce(values.sum()[None]) / number
    return (reduce(((values - mean) ** 2).sum()[None]) / (number - 1)).sqrt()


def masked_mean(values: torch.Tensor, mask: torch.Tensor, reduce: Reduce = identity) -> torch.Tensor:
    """Return the mean over the kept entries of all workers."""
    sums = reduce(torch.stack([(values * mask).sum(), mask.sum().to(values.dtype)]))
    return sums[0] / sums[1].clamp(min=1.0)


def whiten(values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True, reduce: Reduce = identity) -> torch.Tensor:
    """Scale the kept entries to variance 1 over all workers, and shift them to mean 0 if `shift_mean`.

    The variance is the population variance, as in OpenAI's code and arXiv 2403.17031 (`unbiased=False`). TRL 1.12 uses the sample variance.
    """
    mean = masked_mean(values, mask, reduce)
    variance = masked_mean((values - mean) ** 2, mask, reduce)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean) * mask


class KLController:
    """The KL coefficient: fixed, or adapted to reach a target (arXiv 1909.08593, section 2.2)."""

    def __init__(self, coefficient: float, target: float | None = None, horizon: int = 10_000):
        self.coefficient, self.target, self.horizon = coefficient, target, horizon

    def update(self, kl: float, num_samples: int) -> None:
        """Adapt the coefficient. kl: nats per response, measured on `num_samples` responses."""
        if self.target is not None:
            error = min(max(kl / self.target - 1.0, -0.2), 0.2)
            self.coefficient *= 1.0 + error * num_samples / self.horizon
