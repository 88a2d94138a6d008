"""What the summaries in a stage's metrics say: a mean, its standard error, its 95 % interval, and the number of values behind it.

`rewards/measurements.py`, `rewards/win_rates.py` and `rewards/selectors/judging.py` write summaries. Whatever shows them, or decides by
them, reads them here. Must never import torch or Ray.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from rewards.measurements import NORMAL_QUANTILE

MEANS = ("mean", "accuracy")
COUNTS = ("count", "pairs", "updates")
"""The names of the mean and of the number of values in a summary."""


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error (None where there is none), and how many values it is the mean of (0 where that is not known).

    ends: the 95 % interval, where the summary has one of its own.
    """

    mean: float
    error: float | None = None
    size: int = 0
    ends: tuple[float, float] | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval; None where the summary has no error."""
        if self.ends or self.error is None:
            return self.ends
        return self.mean - NORMAL_QUANTILE * self.error, self.mean + NORMAL_QUANTILE * self.error

    def is_above(self, value: float) -> bool:
        """Whether the whole interval is above `value`. Without an interval nothing is certain."""
        return self.interval is not None and self.interval[0] > value

    def is_below(self, value: float) -> bool:
        """Whether the whole interval is below `value`."""
        return self.interval is not None and self.interval[1] < value

    def with_error(self, form: str = ".2f") -> str:
        """The mean and its standard error as text, such as `1.50 ± 0.10`."""
        return f"{self.mean:{form}}" if self.error is None else f"{self.mean:{form}} ± {self.error:{form.removeprefix('+')}}"

    def with_interval(self, form: str = ".2f") -> str:
        """The mean and its interval as text, such as `1.50 (95% interval 1.30 to 1.70)`."""
        return f"{self.mean:{form}} (95% interval {self.interval_text(form)})" if self.interval else f"{self.mean:{form}}"

    def interval_text(self, form: str = ".2f") -> str:
        """The interval as text, such as `1.30 to 1.70`; empty where there is none."""
        return f"{self.interval[0]:{form}} to {self.interval[1]:{form}}" if self.interval else ""


def estimate(value: Any) -> Estimate | None:
    """The estimate in a metric: a summary, the pairwise part of a selector's, or a number."""
    if isinstance(value, dict) and "pairwise" in value:
        value = value["pairwise"]
    if not isinstance(value, dict):
        return Estimate(float(value)) if is_number(value) else None
    mean, count = mean_in(value), next((value[name] for name in COUNTS if name in value), 0)
    error, low, high = (value.get(name) for name in ("standard_error", "low", "high"))
    if mean is None:
        return None
    ends = (float(low), float(high)) if is_number(low) and is_number(high) else None
    return Estimate(mean, float(error) if is_number(error) else None, int(count) if is_number(count) else 0, ends)


def estimates(value: Any) -> dict[str, Estimate]:
    """The estimates in a metric that has several, by name."""
    found = {str(name): estimate(part) for name, part in value.items()} if isinstance(value, dict) else {}
    return {name: part for name, part in found.items() if part is not None}


def mean_in(summary: Mapping[str, Any]) -> float | None:
    """The mean in a summary. None where it has none, or it is not finite."""
    found = next((summary[name] for name in MEANS if name in summary), None)
    return float(found) if is_number(found) else None


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
