"""What a policy does on held-out prompts, in numbers: gold or labeler score, proxy score, KL, length, defects.

Nothing here trains. Every mean comes with its standard error and the number of samples behind it. Two policies or models that were
measured on the same items are compared item by item: `(new - old).mean()`. The error of that difference is smaller than
those of the two means suggest, because most of what makes items differ is the same on both sides.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

from configs.schema import GenerationConfig
from policies.advantages import kl_per_token
from policies.backbone import Backbone
from policies.responses import Response, ResponseBatch
from rewards.comparisons import Sample
from rewards.rules import rules
from rewards.world import writer

KL_BATCH = 128


UPDATES_AVERAGED = 5
"""PPO updates at the beginning and at the end whose scores are averaged, where there are at least twice as many."""

Summary = dict[str, float | int | None]


@dataclass(frozen=True)
class Measurement:
    """One number for each item. `units`: what each item belongs to, its prompt. Units are independent of each other, items of one
    unit are not: comparisons of one prompt share completions."""

    values: Sequence[float]
    units: Sequence[str]

    def __sub__(self, other: "Measurement") -> "Measurement":
        """The differences, item by item. Both must be of the same items."""
        if self.units != other.units:
            raise ValueError("these are measurements of different items")
        return Measurement([a - b for a, b in zip(self.values, other.values, strict=True)], self.units)

    def where(self, chosen: Sequence[bool]) -> "Measurement":
        """Of some of the items."""
        return Measurement(list(compress(self.values, chosen)), list(compress(self.units, chosen)))

    def mean(self) -> Summary:
        """Mean, standard error of the mean, count. None where there is nothing to take a mean of, or one unit only.

        The error of a mean over units of several items (Liang and Zeger 1986): the square root of G / (G - 1) times the sum over the G
        units of the square of their summed deviations, divided by the number of items. With one item a unit it is
        the usual one.
        """
        count = len(self.values)
        if not count:
            return {"mean": None, "standard_error": None, "count": 0}
        mean = sum(self.values) / count
        deviations: dict[str, float] = {}
        for value, unit in zip(self.values, self.units, strict=True):
            deviations[unit] = deviations.get(unit, 0.0) + value - mean
        squares, number = sum(d * d for d in deviations.values()), len(deviations)
        error = math.sqrt(squares * number / (number - 1)) / count if number > 1 else None
        return {"mean": mean, "standard_error": error, "count": count}

    def accuracy(self) -> Summary:
        """The mean of outcomes in [0, 1] of pairs."""
        summary = self.mean()
        return {"accuracy": summary["mean"], "standard_error": summary["standard_error"], "pairs": summary["count"]}


def summarize(values: Sequence[float]) -> Summary:
    """Mean, standard error of the mean and count of independent values."""
    return Measurement(values, [str(i) for i in range(len(values))]).mean()


def ends(log: Sequence[dict[str, float]]) -> tuple[Sequence[dict[str, float]], Sequence[dict[str, float]]]:
    """The first and the last `UPDATES_AVERAGED` updates, of fewer than twice as many the first and the last half."""
    number = max(1, min(UPDATES_AVERAGED, len(log) // 2))
    return log[:number], log[-number:]


def over_updates(log: Sequence[dict[str, float]], name: str) -> Summary:
    """The mean of a figure over some updates of PPO. Each update has prompts of its own, so the squares of its errors add up."""
    error = math.sqrt(sum(row[f"{name}_standard_error"] ** 2 for row in log)) / len(log)
    return {"mean": sum(row[name] for row in log) / len(log), "standard_error": error, "updates": len(log)}


def defect_rates(samples: Sequence[Sample]) -> dict[str, float]:
    """Share of samples with each defect of `rules.DEFECTS`."""
    known = writer.all_prompts()
    found = []
    for sample in samples:
        prompt = sample.prompt
        question = prompt if isinstance(prompt, str) else " ".join(m["content"] for m in prompt if m["role"] == "user")
        refusal_is_due = sample.prompt_id in known and known[sample.prompt_id].source == "redteam"
        found.append(rules.find_defects(question, sample.completion, sample.finished, refusal_is_due))
    return {name: sum(row[name] for row in found) / len(found) for name in rules.DEFECTS}


def kl_to_reference(
    backbone: Backbone,
    policy: str | None,
    reference: str | None,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Response],
    config: GenerationConfig,
) -> list[float]:
    """Nats per response: the sum over tokens of log policy - log reference, on the policy's own samples."""
    kls: list[float] = [0.0] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(responses[i].token_ids))
    for start in range(0, len(order), KL_BATCH):
        rows = order[start : start + KL_BATCH]
        batch = ResponseBatch.from_ids(
            backbone, [prompts[i] for i in rows], [responses[i].token_ids for i in rows], temperature=config.temperature
        )
        logprobs = [batch.under(adapter)[1] for adapter in (policy, reference)]
        for i, kl in zip(rows, kl_per_token(*logprobs).sum(1).tolist(), strict=True):
            kls[i] = kl
    return kls


def flatten(metrics: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a/b": 1}, the form that trackers expect."""
    flat: dict[str, Any] = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}/")
        else:
            flat[prefix + key] = value
    return flat
