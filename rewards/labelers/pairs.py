"""Labeling in two steps: pick which completions of a prompt to compare (picking.py), then have a judge compare them.

A judge is any function from pairs to verdicts. registry.py names the built-in ones, and `labeler.kind` may name the user's own judge.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from configs.errors import UserError
from configs.seeds import derive_seed, draw
from rewards.comparisons import WIN_RATE, Comparison, Sample, win_probability
from rewards.data.splits import Split
from rewards.labelers.labels import Labels, LabelTask
from rewards.labelers.picking import Pair, equal_answers, pick_pairs, win_pairs

EQUAL_TEXTS = "equal-texts"
"""Stands for the labeler where two policies wrote the same, so that nobody was asked."""


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a pair, and where it comes from.

    first_wins: the probability that the first completion is better; None is a tie. rater, labeled_at, shown_first: as in `Comparison`, but
    `shown_first` may only be "both". unusable: why there is no verdict after all. spent: what it cost, by name of the metric.
    """

    first_wins: float | None
    rater: str = ""
    labeled_at: str = ""
    shown_first: str = ""
    unusable: str = ""
    spent: Mapping[str, float] = field(default_factory=dict)


class Judge(Protocol):
    """Says of each pair how probable it is that the first completion is better.

    1.0 means that the first is better, 0.0 that the second is. Anything between is decided by chance. None is a tie. A `Verdict` says more.
    """

    def __call__(self, pairs: Sequence[Pair]) -> Sequence[float | None | Verdict]: ...


def label_by_judge(task: LabelTask, judge: Judge) -> Labels:
    """The labels that a judge gives to the pairs that are picked. Raises UserError for verdicts that are none."""
    pairs = pick_pairs(task)
    return decide(task, pairs, judge(pairs))


def decide(task: LabelTask, pairs: Sequence[Pair], verdicts: Sequence[float | None | Verdict]) -> Labels:
    """Verdicts on pairs as labels. Those that are unusable are left out, under their reason."""
    labels, spent = Labels(), Counter[str]()
    for pair, said in zip(pairs, verdicts, strict=True):
        verdict = said if isinstance(said, Verdict) else Verdict(said)
        spent.update(verdict.spent)  # type: ignore[arg-type]
        if verdict.unusable:
            labels.left_out[verdict.unusable] += 1
        else:
            (labels.wins if pair.picked == WIN_RATE else labels.comparisons).append(_decide(pair, verdict, task))
    labels.metrics |= spent
    return labels


def equal_wins(task: LabelTask, wins: Sequence[Comparison]) -> list[Comparison]:
    """The ties of policies that wrote the same, about which nobody is asked. wins: what is labeled of the other pairs.

    Where only a part of those is labeled, the same part of the equal ones counts, so that the win rate does not move toward 1/2. That is
    done for each opponent by itself.
    """
    judged, used = {frozenset((row.chosen_id, row.rejected_id)) for row in wins}, []
    for opponent in dict.fromkeys(answer.generation for answer in task.answers if answer.generation != task.round_number):
        equal = [(own, other) for own, other in equal_answers(task) if other.generation == opponent]
        pairs = [pair for pair in win_pairs(task) if opponent in (pair.first.generation, pair.second.generation)]
        share = sum(frozenset((pair.first.id, pair.second.id)) in judged for pair in pairs) / len(pairs) if pairs else 1.0
        used += draw(equal, round(len(equal) * share), derive_seed(task.seed, "equal", opponent))
    return [compare(own, other, task.split, EQUAL_TEXTS, tie=True, picked=WIN_RATE) for own, other in used]


def judge_by_scores(scores: Mapping[str, float]) -> Judge:
    """A judge who knows the score of each sample, by its id, in log-odds."""
    return lambda pairs: [win_probability(scores[pair.first.id] - scores[pair.second.id]) for pair in pairs]


def checked_verdicts(given: Any, pairs: Sequence[Pair], name: str) -> list[float | None]:
    """A user's verdicts as plain numbers. Raises UserError if there are too few or too many, or one is not a probability."""
    if not isinstance(given, Iterable):
        raise UserError(f"it gave no verdicts but {type(given).__name__}", name, "return a list with one verdict for each pair")
    verdicts = list(given)
    if len(verdicts) != len(pairs):
        raise UserError(f"it gave {len(verdicts)} verdicts for {len(pairs)} pairs", name, "return one verdict for each pair")
    return [None if verdict is None else _probability(verdict, name) for verdict in verdicts]


def _probability(verdict: Any, name: str) -> float:
    with suppress(TypeError, ValueError):  # texts and lists cannot be compared with numbers, nor can an array of several
        if 0.0 <= verdict <= 1.0:
            return float(verdict)
    to_do = "return the probability that the first completion is better, from 0 to 1, or None for a tie"
    raise UserError(f"the verdict {verdict!r} is not a probability", name, to_do)


def compare(winner: Sample, loser: Sample, split: Split, labeler: str, tie: bool = False, picked: str = "") -> Comparison:
    """Two samples of one prompt as a comparison. picked: how the pair was picked; empty where the labeler brought it."""
    return Comparison(
        prompt_id=winner.prompt_id,
        prompt=winner.prompt,
        chosen=winner.completion,
        rejected=loser.completion,
        source=winner.source,
        generation=max((s.generation for s in (winner, loser) if s.generation is not None), default=None),
        tie=tie,
        chosen_finished=winner.finished,
        rejected_finished=loser.finished,
        chosen_id=winner.id,
        rejected_id=loser.id,
        labeler=labeler,
        heldout=split.holds_out(winner.prompt),
        picked=picked,
    )


def _decide(pair: Pair, verdict: Verdict, task: LabelTask) -> Comparison:
    probability = verdict.first_wins
    first_wins = probability is None or pair.uniform < probability
    winner, loser = (pair.first, pair.second) if first_wins else (pair.second, pair.first)
    row = compare(winner, loser, task.split, task.config.kind, tie=probability is None, picked=pair.picked)
    confidence = 0.5 if probability is None else probability if first_wins else 1.0 - probability
    return replace(row, rater=verdict.rater, labeled_at=verdict.labeled_at, shown_first=verdict.shown_first, confidence=confidence)
