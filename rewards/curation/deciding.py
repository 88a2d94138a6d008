"""Decides what happens to each original pair: kept, removed or moved, with the reason (`ledger.py`).

The steps come in this order, and a pair that an earlier step has taken out is not there for the later ones:

    duplicates -> several raters -> contradictions -> data.max_pairs -> the split -> training prompts near held-out ones

All of them look at sketches only, so `loop data` decides as the stage `data` does, and needs no text in memory.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from configs.curation import CurationConfig
from configs.seeds import derive_seed
from rewards.curation.ledger import HELD_OUT, KEEP, LABELER, PROMPTS, End, move, remove
from rewards.curation.sketches import Sketches
from rewards.data.drawing import Reservoir
from rewards.data.splits import Side

DUPLICATE = remove("said before")
MERGED, NO_VERDICT = remove("merged into the majority of the raters"), remove("no majority among the raters")
CONTRADICTION, OUTVOTED, UNDECIDED = remove("contradiction"), remove("outvoted"), remove("contradiction without a majority")
BEYOND_MAX = remove("beyond data.max_pairs")
NEAR_HELD_OUT = remove("nearly a held-out prompt")


@dataclass(frozen=True)
class Decided:
    """ends: what happens to each pair, in their order. near: for each prompt by its number, whether it is not held out but nearly equal
    to one that is; None where the config says `ignore`."""

    ends: list[End]
    near: np.ndarray | None


def decide(
    sketches: Sketches,
    config: CurationConfig,
    max_pairs: int | None,
    seed: int,
    drawn: Reservoir[int] | None = None,
    without_pair: Iterable[int] = (),
) -> Decided:
    """What happens to each pair.

    seed: the run's. drawn: what `max_pairs` has drawn, if that happened while the pairs came in (`draws_at_once`). without_pair: the
    numbers of the prompts that are used whether `max_pairs` draws a pair of them or not. With `max_pairs`, only prompts that are used are
    compared.
    """
    ends: list[End] = [KEEP] * len(sketches)
    _judge_same_pairs(sketches, config, ends)
    used = np.arange(sketches.num_prompts)
    if max_pairs:
        there = _kept(ends, range(len(ends)))
        if drawn is None:
            drawn = reservoir(max_pairs, seed)
            for place in there:
                drawn.add(place, sketches.weight[place])
        _give(ends, set(there) - set(drawn.drawn()), BEYOND_MAX)
        in_use = [place for place, end in enumerate(ends) if end.step != "remove"]  # also those of which only the prompt is used
        used = np.union1d(sketches.prompt[in_use], np.fromiter(without_pair, np.int64))
    near = None if config.near_heldout == "ignore" else sketches.prompts_near_heldout(config.near_threshold, used)
    moves: dict[Side, str] = {"heldout": HELD_OUT, "labeler": LABELER}
    for side, part in moves.items():
        _give(ends, _kept(ends, np.flatnonzero(sketches.on(side))), move(part))
    if config.near_heldout == "remove" and near is not None:
        not_held_out = (KEEP, move(PROMPTS), move(LABELER))
        _give(ends, (place for place in np.flatnonzero(near[sketches.prompt]).tolist() if ends[place] in not_held_out), NEAR_HELD_OUT)
    return Decided(ends, near)


def reservoir(max_pairs: int, seed: int) -> Reservoir[int]:
    """What draws the places of `max_pairs` pairs."""
    return Reservoir(max_pairs, derive_seed(seed, "max_pairs"))


def draws_at_once(config: CurationConfig) -> bool:
    """Whether no pair is taken out before `max_pairs` draws, so that it can draw while pairs come in."""
    return config.duplicates == config.raters == config.contradictions == "keep"


def contradictions(sketches: Sketches) -> list[np.ndarray]:
    """The places of the rows of each pair of which both answers have been preferred. Ties contradict nothing."""
    return [places for places in sketches.same_pairs() if _contradict(sketches.verdict[places])]


def count_repeated(sketches: Sketches) -> dict[str, int]:
    """How many pairs say what an earlier one says (`duplicates`), and how many pairs of answers contradict themselves."""
    again = sketches.first_of_same() != np.arange(len(sketches))
    return {"duplicates": int(again.sum()), "contradictions": len(contradictions(sketches))}


def _judge_same_pairs(sketches: Sketches, config: CurationConfig, ends: list[End]) -> None:
    verdict, rater, for_labeler = sketches.verdict, sketches.rater, sketches.on("labeler")
    first = sketches.first_of_same() if config.duplicates == "remove" else None
    for places in sketches.same_pairs():
        if first is not None:
            _give(ends, (place for place in places if first[place] != place), DUPLICATE)
        there = _kept(ends, places)
        rated = [place for place in there if rater[place]]
        if config.raters == "majority" and len({int(rater[place]) for place in rated}) > 1:
            winner = _winner(each for _, each in {(int(rater[place]), int(verdict[place])) for place in rated})
            stays = next((place for place in rated if verdict[place] == winner), None)
            _give(ends, [place for place in rated if place != stays], NO_VERDICT if stays is None else MERGED)
            there = _kept(ends, there)
        if config.contradictions != "keep" and _contradict(verdict[there]):
            if config.contradictions == "majority":
                winner = _winner(int(verdict[place]) for place in there)
                _give(ends, [p for p in there if verdict[p] != winner], UNDECIDED if winner is None else OUTVOTED)
            else:
                moves = config.contradictions == "move" and not for_labeler[places[0]]  # nobody asks the labeler's prompts
                _give(ends, there, move(PROMPTS) if moves else CONTRADICTION)


def _contradict(verdicts: np.ndarray) -> bool:
    return bool((verdicts > 0).any() and (verdicts < 0).any())


def _winner(verdicts: Iterable[int]) -> int | None:
    """The verdict that is there more often than any other one. None if there is no such verdict."""
    (first, most), *others = Counter(verdicts).most_common()
    return None if others and others[0][1] == most else first


def _kept(ends: list[End], places: Iterable[int]) -> list[int]:
    return [place for place in places if ends[place] == KEEP]


def _give(ends: list[End], places: Iterable[int], end: End) -> None:
    for place in places:
        ends[place] = end
