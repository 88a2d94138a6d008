"""Means with standard errors. Plain numbers; imports no ML library.

Every mean comes with its standard error and the number of values behind it. Two policies or models that were measured on the same
items are compared item by item: `(new - old).mean()`. The error of that difference is smaller than the errors of the two means
suggest, because most of the variation between items is the same on both sides.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

NORMAL_QUANTILE = 1.959964
"""A normal variable lies between minus this and this with probability 95 %."""
UPDATES_AVERAGED = 5
"""How many PPO updates at the beginning and at the end of a log are averaged, if the log has at least twice as many."""

Summary = dict[str, float | int | None]


@dataclass(frozen=True)
class Measurement:
    """One number for each item. `units` names what each item belongs to, usually its prompt.

    Different units are independent of each other. Items of the same unit are not: comparisons of one prompt share completions.
    """

    values: Sequence[float]
    units: Sequence[str]

    def __sub__(self, other: "Measurement") -> "Measurement":
        """The differences, item by item. Raises ValueError if the two do not measure the same items."""
        if self.units != other.units:
            raise ValueError("these are measurements of different items")
        return Measurement([a - b for a, b in zip(self.values, other.values, strict=True)], self.units)

    def where(self, chosen: Sequence[bool]) -> "Measurement":
        """The measurement of those items for which `chosen` is true."""
        return Measurement(list(compress(self.values, chosen)), list(compress(self.units, chosen)))

    def mean(self) -> Summary:
        """Mean, standard error of the mean, and count. Without values the mean is None; with fewer than two units the error is None.

        The error is the cluster-robust one of Liang and Zeger 1986. Deviations from the mean are summed for each of the G units, and these
        sums are squared and added up. The error is the square root of G / (G - 1) times that total, divided by the number of
        items. If each unit has one item, this is the usual standard error.
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
        """The same as `mean`, under the names that suit values between 0 and 1, one for each pair."""
        summary = self.mean()
        return {"accuracy": summary["mean"], "standard_error": summary["standard_error"], "pairs": summary["count"]}


def wins(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """For each pair of scores: 1 if the first one is higher, 0 if it is lower, 1/2 if both are equal."""
    return [float(a > b) + 0.5 * (a == b) for a, b in zip(first, second, strict=True)]


def summarize(values: Sequence[float]) -> Summary:
    """Mean, standard error of the mean, and count of independent values."""
    return Measurement(values, [str(i) for i in range(len(values))]).mean()


def ends(log: Sequence[dict[str, float]]) -> tuple[Sequence[dict[str, float]], Sequence[dict[str, float]]]:
    """The first and the last `UPDATES_AVERAGED` rows of a log. A shorter log is cut into halves."""
    number = max(1, min(UPDATES_AVERAGED, len(log) // 2))
    return log[:number], log[-number:]


def over_updates(log: Sequence[dict[str, float]], name: str) -> Summary:
    """The mean of one metric over some PPO updates.

    Each update has its own prompts, so the errors of the updates are independent and their squares add up.
    """
    error = math.sqrt(sum(row[f"{name}_standard_error"] ** 2 for row in log)) / len(log)
    return {"mean": sum(row[name] for row in log) / len(log), "standard_error": error, "updates": len(log)}
