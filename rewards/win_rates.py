"""Win rates: how often the labeler prefers one policy's answer to another's. Plain numbers.

    win rate = (wins + ties / 2) / pairs                  with several votes on a pair, their mean is the pair's outcome
    length-controlled: logit p = a + b tanh(d / s)        d: difference of the lengths in characters, s: its standard deviation
                       sigmoid(a)                         what the win rate would be if both answers were equally long

The second is AlpacaEval's logistic form (arXiv 2404.04475, section 3) without its term for each prompt, which needs many models.
Intervals are those of Wilson (1927) for the first, and of the fit for the second.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewards.comparisons import Comparison, parse_answer_id
from rewards.labelers.raters import alpha_of_pairs, pair_key, vote
from rewards.measurements import NORMAL_QUANTILE as Z
from rewards.measurements import Measurement

SFT, LAST = "sft", "last"
"""The opponents by name: the SFT policy, and the policy of the round before."""
RIDGE = 0.1
"""The penalty on a and b, so that the fit exists even where one policy always wins. It is worth less than one pair."""
MAX_STEPS = 50

Interval = dict[str, float | int | None]
"""`mean`, `standard_error`, `count`, and the ends of the 95 % interval, `low` and `high`."""


@dataclass(frozen=True)
class Outcome:
    """One pair of answers. won: 1 if the policy's answer is better, 0 if the other is, 1/2 for a tie. longer: by how many characters."""

    prompt_id: str
    won: float
    longer: int
    tie: bool


def measure(wins: Sequence[Comparison]) -> dict[str, Any]:
    """The metrics of all comparisons of a round's policy with others. Without any, there is nothing to tell."""
    by_opponent = outcomes(wins)
    if not by_opponent:
        return {}
    found: dict[str, Any] = {
        "win_rate": {name: win_rate([one.won for one in of], [one.prompt_id for one in of]) for name, of in by_opponent.items()},
        "length_controlled_win_rate": {
            name: length_controlled([one.won for one in of], [one.longer for one in of]) for name, of in by_opponent.items()
        },
        "win_ties": {name: sum(one.tie for one in of) / len(of) for name, of in by_opponent.items()},
    }
    return found | agreement(wins)


def outcomes(wins: Sequence[Comparison]) -> dict[str, list[Outcome]]:
    """The outcome of each pair, by opponent."""
    votes: dict[Any, list[Comparison]] = {}
    for row in wins:
        votes.setdefault(frozenset((row.chosen_id, row.rejected_id)), []).append(row)
    found: dict[str, list[Outcome]] = {}
    for rows in votes.values():
        row = rows[0]
        own, other = (row.chosen, row.rejected) if _is_own(row.chosen_id) else (row.rejected, row.chosen)
        won = sum(0.5 if one.tie else float(_is_own(one.chosen_id)) for one in rows) / len(rows)
        outcome = Outcome(row.prompt_id, won, len(own) - len(other), all(one.tie for one in rows))
        found.setdefault(_opponent(row), []).append(outcome)
    return {name: found[name] for name in (SFT, LAST) if name in found}


def win_rate(won: Sequence[float], prompts: Sequence[str]) -> Interval:
    """The mean outcome with its standard error, and Wilson's interval. That takes ties for decided pairs, so it is rather too wide."""
    summary = Measurement(won, prompts).mean()
    p, n = sum(won) / len(won), len(won)
    middle, half = p + Z * Z / (2 * n), Z * math.sqrt(max(p * (1 - p), 0.0) / n + (Z / (2 * n)) ** 2)
    return summary | {"low": (middle - half) / (1 + Z * Z / n), "high": (middle + half) / (1 + Z * Z / n)}


def length_controlled(won: Sequence[float], longer: Sequence[int]) -> Interval:
    """The win rate of answers of equal length, by a logistic fit. Its error is the robust one, because ties are no coin flips."""
    y, d = np.asarray(won, float), np.asarray(longer, float)
    x = np.stack([np.ones_like(d), np.tanh(d / (d.std() or 1.0))], axis=1)
    weights = np.zeros(2)
    for _ in range(MAX_STEPS):
        p = 1.0 / (1.0 + np.exp(-x @ weights))
        curvature = (x.T * (p * (1 - p))) @ x + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, x.T @ (y - p) - RIDGE * weights)
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            break
    p = 1.0 / (1.0 + np.exp(-x @ weights))
    inverse = np.linalg.inv((x.T * (p * (1 - p))) @ x + RIDGE * np.eye(2))
    error = math.sqrt((inverse @ ((x.T * (y - p) ** 2) @ x) @ inverse)[0, 0])
    mean, low, high = (1.0 / (1.0 + math.exp(-(weights[0] + by * error))) for by in (0.0, -Z, Z))
    return {"mean": mean, "standard_error": mean * (1 - mean) * error, "count": len(y), "low": low, "high": high}


def agreement(wins: Sequence[Comparison]) -> dict[str, Any]:
    """How far raters agree who have judged the same pairs. Empty where no pair has two raters."""
    votes: dict[Any, dict[str, Any]] = {}
    for row in wins:
        votes.setdefault(pair_key(row), {})[row.rater] = vote(row)
    both = {key: list(of_pair.values()) for key, of_pair in votes.items() if len(of_pair) > 1}
    raters = {rater for of_pair in votes.values() if len(of_pair) > 1 for rater in of_pair}
    return {"win_agreement": {"raters": len(raters), "pairs": len(both), "alpha": alpha_of_pairs(both)}} if both else {}


def _is_own(id: str) -> bool:
    """Whether an answer is that of the round's own policy."""
    found = parse_answer_id(id)
    return found is not None and found[0] == found[1]


def _opponent(row: Comparison) -> str:
    policies = [found[1] for found in map(parse_answer_id, (row.chosen_id, row.rejected_id)) if found]
    return SFT if None in policies else LAST
