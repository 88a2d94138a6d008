"""How well a selector chooses. It is judged on comparisons that nothing was trained on, beside other ways to choose."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from rewards.comparisons import Answer, Comparison, group_candidates
from rewards.measurements import Measurement
from rewards.reward_model import Chooser, outcomes


def judge_choosers(choosers: dict[str, Chooser], comparisons: Sequence[Comparison]) -> dict[str, dict[str, Any]]:
    """Accuracies of each way to choose, and paired differences of the first way from each other one.

    pairwise: how often the chosen completion of a comparison gets a higher score than the rejected one. top1: how often the favourite among
    a prompt's candidates is one of those with the most wins. It counts prompts whose candidates differ in wins.
    `A_over_B`: the differences of the first chooser A from B. `random`: the `top1` of chance.
    """
    groups = [group for group in group_candidates(comparisons) if len({c.wins for c in group.candidates}) > 1]
    names, units = list(choosers), [group.prompt_id for group in groups]
    best = [[c.wins == max(x.wins for x in group.candidates) for c in group.candidates] for group in groups]
    measured = {}
    for name, chooser in choosers.items():
        scores = iter(chooser([Answer(group.prompt, c.completion, c.finished) for group in groups for c in group.candidates]))
        rows = [list(islice(scores, len(is_best))) for is_best in best]
        hits = [float(is_best[row.index(max(row))]) for is_best, row in zip(best, rows, strict=True)]
        measured[name] = {"top1": Measurement(hits, units), "pairwise": outcomes(chooser, comparisons)}
    results: dict[str, dict[str, Any]] = {
        name: {what: measurement.accuracy() for what, measurement in parts.items()} for name, parts in measured.items()
    }
    for other in names[1:]:
        first, second = measured[names[0]], measured[other]
        results[f"{names[0]}_over_{other}"] = {what: (first[what] - second[what]).mean() for what in first}
    chance = Measurement([sum(is_best) / len(is_best) for is_best in best], units)
    return results | {"random": {"top1": chance.accuracy()}}


def longest(answers: Sequence[Answer]) -> list[float]:
    """Scores that prefer the longest completion, in characters."""
    return [float(len(answer.completion)) for answer in answers]
