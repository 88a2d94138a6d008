"""Takes in original rows one by one, and says at the end what happens to each. Must never keep a text (`sketches.py`)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from configs.curation import CurationConfig
from rewards.comparisons import Comparison, Demonstration, PromptRecord
from rewards.curation.deciding import NEAR_HELD_OUT, count_repeated, decide, draws_at_once, reservoir
from rewards.curation.ledger import HELD_OUT, KEEP, LABELER, PROMPTS, End, Ledger, move, remove
from rewards.curation.sketches import SIDES, TIE, Sketches
from rewards.data.splits import Side

PARTS: dict[End, Side] = {KEEP: "training", move(HELD_OUT): "heldout", move(LABELER): "labeler"}
"""The end of a pair -> the part of the run that it is in."""
SAID_BEFORE, FOR_THE_LABELER = remove("a prompt that was there before"), remove("a prompt of the labeler's part")


class Decision(NamedTuple):
    """What happens to a pair. side: of the split; None if nobody looked, because nothing of the pair is used. brings_prompt: whether it
    brings a prompt to ask that no earlier pair has brought."""

    end: End
    side: Side | None
    brings_prompt: bool


class Decisions(Sequence[Decision]):
    """What happens to each pair, in their order. Held as numbers: among millions of small tuples, Python's garbage collector would spend
    more time than curation itself."""

    def __init__(self, ends: list[End], sides: bytes, brings_prompt: bytearray):
        self._ends, self._sides, self._brings_prompt = ends, sides, brings_prompt

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> Decision: ...
    @overload
    def __getitem__(self, place: slice) -> list[Decision]: ...
    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        side = self._sides[place]
        return Decision(self._ends[place], SIDES[side] if side < len(SIDES) else None, bool(self._brings_prompt[place]))


class Curator:
    """First takes in all rows, then decides. The ledger gets the end of each row when it is asked for.

    ties, by_source: how many pairs of the run's parts are ties, and how many training pairs each source has, once it is decided.
    """

    def __init__(self, config: CurationConfig, max_pairs: int | None, seed: int):
        self.config, self.max_pairs, self.seed = config, max_pairs, seed
        self.ledger = Ledger()
        self.sketches = Sketches(compares_prompts=config.near_heldout != "ignore")
        self.ties, self.by_source = 0, Counter[str]()
        self._drawn = reservoir(max_pairs, seed) if max_pairs and draws_at_once(config) else None
        self._near: np.ndarray | None = None
        self._without_pair: set[int] = set()  # numbers of prompts
        self._asked: set[int] = set()  # numbers of prompts

    def draws(self, weight: float = 1.0) -> bool:
        """Whether the next pair may be used, to be asked before `add`. weight: how likely `max_pairs` draws it.

        False if it is certain already that nothing of this pair is used, so that nobody has to keep it, or to know its side.
        """
        return self._drawn is None or self._drawn.add(len(self.sketches), weight)

    def add(self, pair: Comparison, side: Side | None, weight: float = 1.0, may_be_used: bool = True) -> None:
        """Take in the next pair. side: of the split. may_be_used: what `draws` has said of it; only then must the side be known."""
        self.sketches.add(pair, side, weight, compares=may_be_used)

    def add_prompt(self, record: PromptRecord | Demonstration, side: Side) -> None:
        """Take in a prompt that no pair needs to ask."""
        self._without_pair.add(self.sketches.add_prompt(record.prompt_id, record.prompt, side))

    def decide(self) -> Decisions:
        """What happens to each pair, in their order. Raises ValueError if a pair was added that `draws` was not asked about."""
        sketches = self.sketches
        if self._drawn is not None and self._drawn.added != len(sketches):
            raise ValueError(f"{len(sketches)} pairs were added, but `draws` was asked about {self._drawn.added}")
        decided = decide(sketches, self.config, self.max_pairs, self.seed, self._drawn, self._without_pair)
        ends, self._near = decided.ends, decided.near
        for (source, end), number in Counter(zip(sketches.source.tolist(), ends, strict=True)).items():
            self.ledger.add(sketches.sources[source], end, number)
            if end == KEEP:
                self.by_source[sketches.sources[source]] += number
        self.ties = sum(ends[place] in PARTS for place in np.flatnonzero(sketches.verdict == TIE).tolist())
        sides, brings_prompt, parts = sketches.side.tobytes(), bytearray(), (*PARTS, move(PROMPTS))
        for end, side, prompt in zip(ends, sides, sketches.prompt.tolist(), strict=True):
            brings_prompt.append(end in parts and SIDES[side] != "labeler" and self._is_new(prompt))
        return Decisions(ends, sides, brings_prompt)

    def ask(self, prompt_id: str) -> bool:
        """Whether nothing has brought this prompt before."""
        return self._is_new(self.sketches.number_of(prompt_id))

    def end_of_prompt(self, record: PromptRecord, side: Side) -> End:
        """What happens to a prompt without a pair. The ledger gets it."""
        if side == "labeler":
            end = FOR_THE_LABELER
        elif self.is_near_heldout(record.prompt_id):
            end = NEAR_HELD_OUT
        elif not self.ask(record.prompt_id):
            end = SAID_BEFORE
        else:
            end = move(HELD_OUT) if side == "heldout" else move(PROMPTS)
        self.ledger.add(record.source, end)
        return end

    def end_of_answer(self, record: Demonstration, side: Side) -> End:
        """What happens to a single answer. The ledger gets it."""
        if side == "labeler":
            end = FOR_THE_LABELER
        elif self.is_near_heldout(record.prompt_id):
            end = NEAR_HELD_OUT
        else:
            end = move(HELD_OUT) if side == "heldout" else KEEP
        self.ledger.add(record.source, end)
        return end

    def is_near_heldout(self, prompt_id: str) -> bool:
        """Whether a prompt is left out because it is nearly a held-out one."""
        if self.config.near_heldout != "remove" or self._near is None:
            return False
        return bool(self._near[self.sketches.number_of(prompt_id)])

    def _is_new(self, number: int) -> bool:
        is_new = number not in self._asked
        self._asked.add(number)
        return is_new

    @property
    def repeated(self) -> dict[str, int]:
        """What was there twice before anything was removed: `duplicates` (pairs that say what an earlier one says), `contradictions` (pairs
        of answers that both have been preferred) and `near_heldout` (training prompts nearly equal to a held-out one; missing if nobody
        looked)."""
        return count_repeated(self.sketches) | ({} if self._near is None else {"near_heldout": int(self._near.sum())})


def repeated_in(pairs: Iterable[Comparison]) -> dict[str, int]:
    """What is there twice among the rows that a reward model is trained on (`count_repeated`). Nothing is left out."""
    sketches = Sketches(compares_prompts=False)
    for pair in pairs:
        sketches.add(pair, "training")
    return count_repeated(sketches)
