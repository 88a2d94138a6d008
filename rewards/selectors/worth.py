"""How much a person's time each pair of completions is worth. Pure functions of scores; imports no ML library.

Several judges, a *committee*, have scored both completions of every pair: for example the reward model and the selector. A pair is worth
a label if the label would teach something, and these are three published guesses at that:

    disagreement   the members of the committee expect different outcomes. The worth is the information, in nats, that a label is expected
                   to give about which member is right: the entropy of the mean probability minus the mean of the entropies. This is
                   query by committee (Seung, Opper and Sompolinsky 1992) with the objective of BALD (Houlsby et al. 2011, arXiv 1112.5745).
    uncertainty    the committee as a whole does not know the outcome: the entropy of its mean probability, in nats (uncertainty sampling,
                   Lewis and Gale 1994). Unlike disagreement, it is also high where every member calls the pair even.
    closeness      the first member gives both completions nearly the same score: minus the distance of the scores (uncertainty sampling
                   with one model).

A member's probability is that of Bradley and Terry: sigmoid of the difference of its scores. Members score on different scales, so each
member's differences are first divided by their root mean square. Worth orders pairs; its absolute size means little.
"""

import math
from collections.abc import Callable, Sequence

from rewards.comparisons import win_probability

Differences = Sequence[Sequence[float]]
"""One row for each member of the committee: the score of the first completion minus that of the second, for each pair."""


def disagreement(differences: Differences) -> list[float]:
    """Nats that a label is expected to tell about which member of the committee is right. 0 where all members say the same."""
    return [_entropy(_mean(chances)) - _mean([_entropy(chance) for chance in chances]) for chances in _chances(differences)]


def uncertainty(differences: Differences) -> list[float]:
    """The entropy of the outcome that the committee expects, in nats: at most log 2."""
    return [_entropy(_mean(chances)) for chances in _chances(differences)]


def closeness(differences: Differences) -> list[float]:
    """Minus the distance of the two scores by the first member of the committee."""
    return [-abs(difference) for difference in differences[0]]


WORTH: dict[str, Callable[[Differences], list[float]]] = {
    "disagreement": disagreement,
    "uncertainty": uncertainty,
    "closeness": closeness,
}
"""What `labeler.pick` may be besides `random`. A function gives each pair a number; the higher it is, the more a label is worth."""


def _chances(differences: Differences) -> list[tuple[float, ...]]:
    """For each pair, the probability by each member that the first completion is better."""
    return list(zip(*([win_probability(x) for x in _scaled(row)] for row in differences), strict=True))


def _scaled(row: Sequence[float]) -> list[float]:
    """The numbers divided by their root mean square. Numbers that are all 0 stay 0."""
    size = math.sqrt(sum(x * x for x in row) / len(row)) if row else 0.0
    return [x / size for x in row] if size else list(row)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _entropy(chance: float) -> float:
    """The entropy of an outcome with two sides, in nats."""
    return -sum(p * math.log(p) for p in (chance, 1.0 - chance) if p > 0.0)
