"""Labelers: from samples to comparisons. Each is a function (samples, ...) -> comparisons.

    gold               the embedded world's true reward; P(a beats b) = sigmoid(gold(a) - gold(b))
    reward-model       scores of a reward model that this run does not train; the same law
    preferences-file   comparisons made elsewhere (`label_file.py`)

Imports no ML library: the reward model's scores come in as numbers.
"""

import itertools
import math
import random
from collections.abc import Sequence

from configs.schema import LabelerConfig
from configs.seeds import derive_seed
from rewards.comparisons import Comparison, Sample
from rewards.data.splits import Split
from rewards.world import writer
from rewards.world.gold import gold_reward

Scores = dict[str, float]
"""Sample id -> score in log-odds."""


def bernoulli(difference: float, rng: random.Random) -> bool:
    """Whether the first of two wins, drawn with probability sigmoid(difference)."""
    return rng.random() < 1.0 / (1.0 + math.exp(-difference))


def gold_scores(samples: Sequence[Sample]) -> Scores:
    """The true reward of each sample. All prompts must be the embedded world's."""
    prompts = writer.all_prompts()
    return {s.id: gold_reward(prompts[s.prompt_id], s.completion, s.finished) for s in samples}


def compare_by_scores(samples: Sequence[Sample], scores: Scores, config: LabelerConfig, seed: int, split: Split) -> list[Comparison]:
    """`pairs_per_prompt` comparisons among each prompt's different completions, each drawn from the score difference."""
    comparisons = []
    for prompt_id, group in _by_prompt(samples).items():
        rng = random.Random(derive_seed(seed, "label", prompt_id))
        pairs = [(a, b) for a, b in itertools.combinations(group, 2) if (a.completion, a.finished) != (b.completion, b.finished)]
        for a, b in rng.sample(pairs, min(config.pairs_per_prompt, len(pairs))):
            winner, loser = (a, b) if bernoulli(scores[a.id] - scores[b.id], rng) else (b, a)
            comparisons.append(compare(winner, loser, split, labeler=config.kind))
    return comparisons


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


def _by_prompt(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.prompt_id, []).append(sample)
    return groups
