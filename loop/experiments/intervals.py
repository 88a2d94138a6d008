"""Means over seeds, and confidence intervals by Student's t distribution. Plain numbers.

Two arms are compared seed by seed: the interval is that of the mean of the differences. It assumes that the differences come from a
normal distribution, which matters little from about ten seeds on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rewards.measurements import summarize

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """The mean of one difference for each seed. What needs two seeds is None where there is one. positive: how many are above 0."""

    mean: float
    standard_error: float | None
    low: float | None
    high: float | None
    count: int
    positive: int


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """`first` minus `second`, by the seeds that both have. None where they share no seed."""
    values = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    if not values:
        return None
    summary, positive = summarize(values), sum(value > 0 for value in values)
    mean, error = summary["mean"], summary["standard_error"]
    assert mean is not None
    low, high = interval(mean, error, len(values)) or (None, None)
    return Difference(mean, error, low, high, len(values), positive)


def interval(mean: float, error: float | None, count: int) -> tuple[float, float] | None:
    """Student's interval of a mean over seeds. error: its standard error. None for one seed."""
    if error is None or count < 2:
        return None
    half = t_quantile(count - 1) * error
    return mean - half, mean + half


def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The t for which a variable with so many degrees of freedom lies between -t and t with probability `confidence`."""
    low, high = 0.0, 1.0
    while t_probability(high, degrees) < confidence:
        high *= 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, degrees) < confidence else (low, middle)
    return high


def t_probability(t: float, degrees: int) -> float:
    """The probability that a variable with so many degrees of freedom lies between -t and t.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, equations 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, degrees - 1, 2):  # the term has cosine ** power
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
