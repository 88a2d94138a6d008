"""Which completions of a prompt a labeler is asked to compare.

    held-out prompts    pairs at random, at most `labeler.pairs_per_prompt` of each prompt. What they measure is never biased by picking.
    training prompts    `labeler.budget` pairs, with the same limit for each prompt. A share of them is random (`labeler.random_fraction`).
                        The rest are those that are worth a label most (`labeler.pick`, rewards/selectors/worth.py).
    win rates           one pair for each prompt that the policies have answered, and each opponent. These pairs only measure.

Equal completions are never paired. Everything depends on the seed, the samples and the committee's scores only.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from configs.errors import UserError
from configs.seeds import derive_seed, draw
from rewards.comparisons import WIN_RATE, Sample, all_pairs
from rewards.labelers.labels import LabelTask
from rewards.selectors.worth import WORTH

RANDOM = "random"

Texts = tuple[str, frozenset[tuple[str, bool]]]
"""A prompt's id and two of its completions, in no order. A completion is its text and whether it is finished."""


@dataclass(frozen=True)
class Pair:
    """Two different completions of one prompt.

    `uniform` is a random number in [0, 1) that belongs to the pair. The first completion wins if it is below the judge's probability.
    `picked` says how the pair was picked, by a value of `labeler.pick`, or WIN_RATE.
    """

    first: Sample
    second: Sample
    uniform: float
    picked: str = RANDOM

    @property
    def prompt_id(self) -> str:
        return self.first.prompt_id

    @property
    def texts(self) -> Texts:
        """Two pairs of samples may be the same pair of texts."""
        return texts_of(self.prompt_id, *((sample.completion, sample.finished) for sample in (self.first, self.second)))


def pick_pairs(task: LabelTask) -> list[Pair]:
    """The pairs that a labeler compares, prompt by prompt, those for win rates last. Raises UserError if the training prompts have too few
    for the budget."""
    config = task.config
    drawn = choose_pairs(task.samples, config.pairs_per_prompt, task.seed)
    heldout = [pair for pair in drawn if task.split.holds_out(pair.first.prompt)]
    training = [pair for pair in drawn if not task.split.holds_out(pair.first.prompt)]
    budget = len(training) if config.budget is None else config.budget
    if budget > len(training):
        raise UserError(
            f"labeler.budget asks for {budget} pairs, but the samples of the training prompts give only {len(training)}",
            str(task.samples_file),
            "lower labeler.budget, or raise sample.num_prompts, sample.num_completions or labeler.pairs_per_prompt",
        )
    kept = draw(training, budget if config.pick == RANDOM else round(budget * config.random_fraction), derive_seed(task.seed, "budget"))
    picked = _worthiest(task, budget - len(kept), kept)
    order = {sample.prompt_id: number for number, sample in reversed(list(enumerate(task.samples)))}
    return sorted(kept + picked + heldout, key=lambda pair: order[pair.prompt_id]) + win_pairs(task)


def choose_pairs(samples: Sequence[Sample], pairs_per_prompt: int, seed: int) -> list[Pair]:
    """At most `pairs_per_prompt` random pairs among the completions of each prompt. Equal completions are never paired."""
    chosen = []
    for prompt_id, pairs in all_pairs(samples).items():
        rng = random.Random(derive_seed(seed, "label", prompt_id))
        chosen += [Pair(a, b, rng.random()) for a, b in rng.sample(pairs, min(pairs_per_prompt, len(pairs)))]
    return chosen


def win_pairs(task: LabelTask) -> list[Pair]:
    """This round's policy against the SFT policy, and against the last round's, where their answers differ. The order is shuffled."""
    pairs = []
    for own, other in match_answers(task.answers, task.round_number):
        rng = random.Random(derive_seed(task.seed, WIN_RATE, own.id, other.id))
        first, second = (own, other) if rng.random() < 0.5 else (other, own)
        if not _are_equal(own, other):
            pairs.append(Pair(first, second, rng.random(), WIN_RATE))
    return pairs


def equal_answers(task: LabelTask) -> list[tuple[Sample, Sample]]:
    """The pairs of `match_answers` about which nobody has to be asked: both policies wrote the same."""
    return [(own, other) for own, other in match_answers(task.answers, task.round_number) if _are_equal(own, other)]


def match_answers(answers: Sequence[Sample], round_number: int) -> list[tuple[Sample, Sample]]:
    """Each answer of this round's policy with each other policy's answer to the same prompt."""
    own = {answer.prompt_id: answer for answer in answers if answer.generation == round_number}
    return [(own[other.prompt_id], other) for other in answers if other.generation != round_number]


def _are_equal(a: Sample, b: Sample) -> bool:
    return (a.completion, a.finished) == (b.completion, b.finished)


def _worthiest(task: LabelTask, count: int, taken: Sequence[Pair]) -> list[Pair]:
    """`count` further pairs of training prompts, those that are worth a label most, within the limit of pairs for one prompt.

    The policy may write a text more than once. Pairs of texts that are taken already come last.
    """
    if not count:
        return []
    known = {(pair.first.id, pair.second.id) for pair in taken}
    rest = [
        Pair(a, b, random.Random(derive_seed(task.seed, "label", a.id, b.id)).random(), task.config.pick)
        for pairs in all_pairs(task.samples).values()
        for a, b in pairs
        if (a.id, b.id) not in known and not task.split.holds_out(a.prompt)
    ]
    free = Counter(dict.fromkeys((pair.prompt_id for pair in rest), task.config.pairs_per_prompt))
    free.subtract(pair.prompt_id for pair in taken)
    scores_by_member = task.committee.values()
    worth = WORTH[task.config.pick]([[scores[pair.first.id] - scores[pair.second.id] for pair in rest] for scores in scores_by_member])
    order = sorted(range(len(rest)), key=lambda i: (-worth[i], rest[i].uniform))  # chance orders equals
    said = {pair.texts for pair in taken}
    new: list[Pair] = []
    repeated: list[Pair] = []
    for pair in (rest[i] for i in order):
        (repeated if pair.texts in said else new).append(pair)
        said.add(pair.texts)
    picked: list[Pair] = []
    for pair in new + repeated:
        if free[pair.prompt_id] > 0 and len(picked) < count:
            free[pair.prompt_id] -= 1
            picked.append(pair)
    return picked


def texts_of(prompt_id: str, first: tuple[str, bool], second: tuple[str, bool]) -> Texts:
    """Two completions of a prompt, whichever comes first."""
    return prompt_id, frozenset((first, second))
