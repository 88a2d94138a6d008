"""Figures with 95 % intervals, out of the metrics of a stage."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NORMAL_QUANTILE = 1.96
"""A normal variable lies between minus this and this with probability 95 %."""
MEANS = ("mean", "accuracy")
COUNTS = ("count", "pairs")


@dataclass(frozen=True)
class Figure:
    """A mean with its 95 % interval (None where it is not known), and how many values it is the mean of (0 where that is not known)."""

    mean: float
    low: float | None = None
    high: float | None = None
    count: int = 0

    @property
    def interval(self) -> str:
        """The interval as text; empty where it is not known."""
        return "" if self.low is None or self.high is None else f"{self.low:.2f} to {self.high:.2f}"

    def __str__(self) -> str:
        return f"{self.mean:.2f} (95% interval {self.interval})" if self.interval else f"{self.mean:.2f}"


def figure(value: Any) -> Figure | None:
    """The figure in a metric: a number, or a summary as `rewards/measurements.py` makes it. A summary may bring its own interval."""
    if isinstance(value, int | float):
        return Figure(float(value))
    name = next((name for name in MEANS if name in value), None) if isinstance(value, Mapping) else None
    if name is None or value[name] is None:
        return None
    mean, error, count = value[name], value.get("standard_error"), next((value[name] for name in COUNTS if name in value), 0)
    if value.get("low") is not None and value.get("high") is not None:
        return Figure(mean, value["low"], value["high"], count)
    if error is None:
        return Figure(mean, count=count)
    return Figure(mean, mean - NORMAL_QUANTILE * error, mean + NORMAL_QUANTILE * error, count)


def figures(name: str, value: Any) -> Iterator[tuple[str, Figure]]:
    """All figures in a metric, with their names: `gold`, or `win_rate: sft` for a part of one."""
    if found := figure(value):
        yield name, found
    elif isinstance(value, Mapping):
        for part, inner in value.items():
            if found := figure(inner):
                yield f"{name}: {part}", found
