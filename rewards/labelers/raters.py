"""Several raters of the same pair: how far they agree, and what is made of their votes (`labeler.raters`). Plain data.

all         every vote is a comparison of its own, as it is
majority    one comparison for each pair: what most raters said; a tie where no answer has most votes
weighted    the same, where a vote counts as `labeler.rater_weights` says (1 for raters that are not named there)
dawid-skene one comparison for each pair: what is most probable, by a model that learns from all pairs how each rater errs (dawid_skene.py)
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from configs.schema import LabelerConfig
from rewards.comparisons import Comparison, turned
from rewards.labelers import dawid_skene

TIE = "tie"
Side = tuple[str, str, bool]
PairKey = tuple[str, frozenset[Side]]
EQUAL = 1e-9
"""Shares that differ by less are equal: they are sums and products of fractions."""
Shares = Mapping[Hashable, float]
"""What speaks for each side of a pair, and for a tie. The numbers add up to 1."""


def combine(rows: Sequence[Comparison], config: LabelerConfig) -> tuple[list[Comparison], dict[str, Any]]:
    """The comparisons that the votes make, in the order of their pairs, and the metrics of the raters. No rows give no metrics."""
    pairs: dict[PairKey, list[Comparison]] = {}
    for row in rows:
        pairs.setdefault(pair_key(row), []).append(row)
    metrics = measure(pairs) if len({row.rater for row in rows}) > 1 else {}
    if config.raters == "all":
        return list(rows), metrics
    if config.raters == "dawid-skene" and pairs:
        shares, accuracies = _estimate(pairs)
        return [_decide(votes, shares[key]) for key, votes in pairs.items()], metrics | {"rater_accuracy": accuracies}
    weights = config.rater_weights if config.raters == "weighted" else {}
    return [votes[0] if len(votes) == 1 else _decide(votes, _count(votes, weights)) for votes in pairs.values()], metrics


def measure(pairs: Mapping[PairKey, Sequence[Comparison]]) -> dict[str, Any]:
    """How far the raters of the same pairs agree: Krippendorff's alpha, and the number of pairs with opposite verdicts."""
    votes = {key: [vote(row) for row in rows] for key, rows in pairs.items()}
    return {
        "raters": len({row.rater for rows in pairs.values() for row in rows}),
        "rater_alpha": alpha_of_pairs(votes),
        "contradictions": sum(len(set(of_pair) - {TIE}) > 1 for of_pair in votes.values()),
    }


def alpha_of_pairs(votes: Mapping[PairKey, Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha of votes on pairs. The values are first, second and tie.

    The two sides of a pair have no order, so every pair counts in both orders. Otherwise, alpha would depend on which one is called first.
    """
    units: list[list[Hashable]] = []
    for (_, sides), of_pair in votes.items():
        for order in (sorted(sides), sorted(sides, reverse=True)):
            units.append([TIE if one == TIE else order.index(cast(Side, one)) for one in of_pair])
    return alpha(units)


def pair_key(row: Comparison) -> PairKey:
    """The pair that a comparison is about, whichever of the two is the chosen one."""
    return row.prompt_id, frozenset(
        [(row.chosen_id, row.chosen, row.chosen_finished), (row.rejected_id, row.rejected, row.rejected_finished)]
    )


def vote(row: Comparison) -> Hashable:
    """What a comparison says of its pair: the better side, or a tie."""
    return TIE if row.tie else (row.chosen_id, row.chosen, row.chosen_finished)


def alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal data: 1 minus the observed disagreement over the expected one.

    units: the values that each unit got, one for each rater who has seen it. A unit with fewer than two values says nothing. None where
    there is no other value to disagree about. Source: Krippendorff, Computing Krippendorff's alpha-reliability, 2011, section C.
    """
    paired = [Counter(values) for values in units if len(values) > 1]
    totals = sum(paired, Counter[Hashable]())
    n = totals.total()
    expected = n * n - sum(count * count for count in totals.values())
    if not expected:
        return None
    observed = sum((unit.total() ** 2 - sum(count * count for count in unit.values())) / (unit.total() - 1) for unit in paired)
    return 1.0 - (n - 1) * observed / expected


def _count(rows: Sequence[Comparison], weights: Mapping[str, float]) -> Shares:
    """The shares of the weighted votes on one pair."""
    given: dict[Hashable, float] = {}
    for row in rows:
        given[vote(row)] = given.get(vote(row), 0.0) + weights.get(row.rater, 1.0)
    return {said: weight / sum(given.values()) for said, weight in given.items()}


def _estimate(pairs: Mapping[PairKey, Sequence[Comparison]]) -> tuple[dict[PairKey, Shares], dict[str, float]]:
    """The probability of each side and of a tie, for each pair, and the probability that a rater is right, both by the model.

    The values are first, second and tie. Every pair counts in both orders, as in `alpha_of_pairs`.
    """
    raters = sorted({row.rater for rows in pairs.values() for row in rows})
    column = {rater: number for number, rater in enumerate(raters)}
    values: list[list[Hashable]] = [[*sorted(sides), TIE] for _, sides in pairs]
    counts: np.ndarray = np.zeros((len(pairs), len(raters), 3))
    for number, rows in enumerate(pairs.values()):
        for row in rows:
            counts[number, column[row.rater], values[number].index(vote(row))] += 1.0
    found = dawid_skene.fit(np.concatenate([counts, counts[:, :, [1, 0, 2]]]))
    shares: dict[PairKey, Shares] = {
        key: dict(zip(values[number], found.truth[number].tolist(), strict=True)) for number, key in enumerate(pairs)
    }
    return shares, dict(zip(raters, found.accuracy.tolist(), strict=True))


def _decide(rows: Sequence[Comparison], given: Shares) -> Comparison:
    """One comparison from the votes on one pair. Its confidence is the share of the chosen side, where a tie gives half to each side."""
    sides = {side: row for row in rows for side in _sides(row)}
    best, other = sorted(sides, key=lambda side: (-given.get(side, 0.0), side))
    most = given.get(best, 0.0)
    tie = most <= max(given.get(other, 0.0), given.get(TIE, 0.0)) + EQUAL
    row = next((row for row in rows if _sides(row)[0] == best), None) or turned(rows[0])
    share = most + 0.5 * given.get(TIE, 0.0)
    raters = ", ".join(sorted({row.rater for row in rows}))
    return replace(row, tie=tie, confidence=share, rater=raters, labeled_at=max(row.labeled_at for row in rows), shown_first="")


def _sides(row: Comparison) -> tuple[Side, Side]:
    return (row.chosen_id, row.chosen, row.chosen_finished), (row.rejected_id, row.rejected, row.rejected_finished)
