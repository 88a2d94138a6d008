"""What an update of PPO reports, under TRL's names: objective/*, policy/*, val/*. Means are over the responses of all workers."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from policies import parallel
from policies.advantages import masked_mean

LOSS_NAMES = {
    "policy_loss": "loss/policy_avg",
    "value_loss": "loss/value_avg",
    "clip_fraction": "policy/clipfrac_avg",
    "approx_kl": "policy/approxkl_avg",
    "grad_norm": "policy/grad_norm",
    "kl_loss": "loss/kl_avg",
    "entropy": "loss/entropy_avg",
}
"""The names under which the averages of a minibatch's losses are reported."""
OPTIONAL = ("kl_loss", "entropy")
"""Losses that are reported only if they are part of the loss."""


def response_metrics(values: dict[str, torch.Tensor], group_size: int) -> dict[str, float]:
    """Return the mean of each value over all responses, and the standard errors of the KL and of the scores. Values are [B] each."""
    metrics = {name: masked_mean(value, torch.ones_like(value), parallel.all_sum).item() for name, value in values.items()}
    for name in ("objective/kl", "objective/scores"):
        if name in values:
            metrics[f"{name}_standard_error"] = standard_error(values[name], metrics[name], group_size)
    return metrics


def kl_of_a_token(metrics: Mapping[str, float]) -> float:
    """Return the KL divergence of an update in nats for each token of its responses. It is 0 if the KL divergence is not measured."""
    return metrics.get("objective/kl", 0.0) / metrics["val/response_length"]


def loss_metrics(losses: Sequence[dict[str, float]], used: Iterable[str], device: torch.device) -> dict[str, float]:
    """Return the averages of the minibatches' losses over all workers. `used` names the losses that are part of the loss.

    Every worker must be given the same names, also one whose responses have all been left out.
    """
    names = [name for name in LOSS_NAMES if name not in OPTIONAL or name in used]
    averages = torch.tensor([sum(loss.get(name, 0.0) for loss in losses) / len(losses) for name in names], device=device)
    averages = parallel.all_sum(averages) / parallel.world_size()
    return dict(zip([LOSS_NAMES[name] for name in names], averages.tolist(), strict=True))


def mean_approx_kl(losses: Sequence[dict[str, float]], device: torch.device) -> float:
    """Return how far the policy is from where it sampled, in nats per token: the mean of some minibatches over all workers."""
    mean = torch.tensor([sum(loss.get("approx_kl", 0.0) for loss in losses) / len(losses)], device=device)
    return (parallel.all_sum(mean) / parallel.world_size()).item()


def standard_error(values: torch.Tensor, mean: float, group_size: int) -> float:
    """Return the standard error of the mean over all workers' responses, [B] of this worker.

    The `group_size` responses to one prompt count as one. The result is 0 if there is only one prompt.
    """
    deviations = values.view(-1, group_size).mean(1).double() - mean
    squares, number = parallel.all_sum(torch.stack([deviations.square().sum(), deviations.new_tensor(len(deviations))])).tolist()
    return math.sqrt(squares / max(1.0, number - 1) / number)
