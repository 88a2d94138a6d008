"""Labeling in two steps: choose which completions of a prompt to compare, then have a judge compare them.

A judge is any function from pairs to verdicts. `gold.py` and `reward_model.py` have the built-in ones, and `labeler.kind` may name the
user's own judge.
"""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from configs.errors import UserError
from configs.seeds import derive_seed
from rewards.comparisons import Comparison, Sample, win_probability
from rewards.data.splits import Split
from rewards.labelers.labels import Labels, LabelTask


@dataclass(frozen=True)
class Pair:
    """Two different completions of one prompt.

    `uniform` is a random number in [0, 1) that belongs to the pair. The first completion wins if it is below the judge's probability.
    """

    first: Sample
    second: Sample
    uniform: float


class Judge(Protocol):
    """Says of each pair how probable it is that the first completion is better.

    1.0 means that the first is better, 0.0 that the second is. Anything between is decided by chance. None is a tie.
    """

    def __call__(self, pairs: Sequence[Pair]) -> Sequence[float | None]: ...


def choose_pairs(samples: Sequence[Sample], pairs_per_prompt: int, seed: int) -> list[Pair]:
    """At most `pairs_per_prompt` pairs among the completions of each prompt. Equal completions are never paired."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.prompt_id, []).append(sample)
    chosen = []
    for prompt_id, group in groups.items():
        rng = random.Random(derive_seed(seed, "label", prompt_id))
        pairs = [(a, b) for a, b in itertools.combinations(group, 2) if (a.completion, a.finished) != (b.completion, b.finished)]
        chosen += [Pair(a, b, rng.random()) for a, b in rng.sample(pairs, min(pairs_per_prompt, len(pairs)))]
    return chosen


def label_by_judge(task: LabelTask, judge: Judge) -> Labels:
    """The labels that a judge gives to chosen pairs. Raises UserError for verdicts that are none."""
    pairs = choose_pairs(task.samples, task.config.pairs_per_prompt, task.seed)
    verdicts = judge(pairs)
    return Labels([_decide(pair, verdict, task) for pair, verdict in zip(pairs, verdicts, strict=True)])


def judge_by_scores(scores: Mapping[str, float]) -> Judge:
    """A judge who knows the score of each sample, by its id, in log-odds."""
    return lambda pairs: [win_probability(scores[pair.first.id] - scores[pair.second.id]) for pair in pairs]


def checked_verdicts(verdicts: Sequence[float | None], pairs: Sequence[Pair], name: str) -> list[float | None]:
    """A user's verdicts as plain numbers. Raises UserError if there are too few or too many, or one is not a probability."""
    if len(verdicts) != len(pairs):
        raise UserError(f"it gave {len(verdicts)} verdicts for {len(pairs)} pairs", name, "return one verdict for each pair")
    for verdict in verdicts:
        if verdict is not None and not 0.0 <= verdict <= 1.0:
            to_do = "return the probability that the first completion is better, from 0 to 1, or None for a tie"
            raise UserError(f"the verdict {verdict!r} is not a probability", name, to_do)
    return [None if verdict is None else float(verdict) for verdict in verdicts]


def compare(winner: Sample, loser: Sample, split: Split, labeler: str, tie: bool = False) -> Comparison:
    """Two samples of one prompt as a comparison."""
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
    )


def _decide(pair: Pair, verdict: float | None, task: LabelTask) -> Comparison:
    if verdict is None:
        return compare(pair.first, pair.second, task.split, task.config.kind, tie=True)
    winner, loser = (pair.first, pair.second) if pair.uniform < verdict else (pair.second, pair.first)
    return compare(winner, loser, task.split, task.config.kind)
