"""What is remembered of each original pair, so that curation needs no text: hashes, the verdict, the rater, source and side.

A row takes about 40 bytes, and a prompt about 300 more, however long they are. Hashes have 64 bits: among ten million pairs, two share one
with a probability of 3e-6.
"""

import hashlib
from array import array
from typing import get_args

import numpy as np

from rewards.comparisons import Comparison, Prompt
from rewards.curation.near import NearDuplicates, equal_values
from rewards.data.splits import Side

SIDES: tuple[Side, ...] = get_args(Side)
TIE = 0
MISSING = -1


class Sketches:
    """The pairs of a run, in the order in which they were added."""

    def __init__(self, compares_prompts: bool) -> None:
        """compares_prompts: whether near-duplicates among the prompts will be asked for."""
        self.sources: list[str] = []
        self._source_numbers: dict[str, int] = {}
        self._source, self._side, self._verdict = array("i"), array("b"), array("b")
        self._pair, self._rater, self._prompt = array("Q"), array("Q"), array("Q")
        self.weight = array("d")
        self._prompts: dict[int, int] = {}
        self._sides_of_prompts, self._near_places = array("b"), array("q")
        self.near_prompts = NearDuplicates() if compares_prompts else None

    def __len__(self) -> int:
        return len(self._pair)

    def add(self, pair: Comparison, side: Side | None, weight: float = 1.0, compares: bool = True) -> None:
        """Take in the next pair. side: of the split; None if nothing of the pair will be used. weight: how likely it is drawn.
        compares: see `add_prompt`."""
        answers = [_hash(f"{pair.chosen_finished}{pair.chosen}"), _hash(f"{pair.rejected_finished}{pair.rejected}")]
        number = self._source_numbers.setdefault(pair.source, len(self._source_numbers))
        if number == len(self.sources):
            self.sources.append(pair.source)
        self._source.append(number)
        self._side.append(_number_of(side))
        self.weight.append(weight)
        self._verdict.append(TIE if pair.tie else 1 if answers[0] < answers[1] else -1)
        self._pair.append(_hash(f"{pair.prompt_id}/{min(answers)}/{max(answers)}"))
        self._rater.append(_hash(pair.rater) if pair.rater else 0)
        self._prompt.append(self.add_prompt(pair.prompt_id, pair.prompt, side, compares))

    def add_prompt(self, prompt_id: str, prompt: Prompt, side: Side | None, compares: bool = True) -> int:
        """Take in a prompt, of which there need not be a pair. Returns its number; that of an equal one that was there before.

        compares: False if `prompts_near_heldout` will not be asked for this prompt, which saves most of the time that it takes.
        """
        key = _hash(prompt_id)
        number = self._prompts.setdefault(key, len(self._prompts))
        if number == len(self._sides_of_prompts):
            self._sides_of_prompts.append(MISSING)
            self._near_places.append(MISSING)
        if self._sides_of_prompts[number] == MISSING:
            self._sides_of_prompts[number] = _number_of(side)
        if compares and self.near_prompts is not None and self._near_places[number] == MISSING:
            self._near_places[number] = len(self.near_prompts)
            self.near_prompts.add(prompt_text(prompt))
        return number

    @property
    def num_prompts(self) -> int:
        """How many different prompts were taken in."""
        return len(self._prompts)

    def source_of(self, place: int) -> str:
        """The name of a pair's source."""
        return self.sources[self._source[place]]

    @property
    def source(self) -> np.ndarray:
        """The number of each pair's source in `sources`."""
        return np.frombuffer(self._source, np.int32)

    @property
    def prompt(self) -> np.ndarray:
        """The number of each pair's prompt."""
        return np.frombuffer(self._prompt, np.uint64).astype(np.int64)

    @property
    def verdict(self) -> np.ndarray:
        """TIE, or which of the two answers is better, by their hashes: 1 or -1."""
        return np.frombuffer(self._verdict, np.int8)

    @property
    def rater(self) -> np.ndarray:
        """The hash of each pair's rater; 0 for none."""
        return np.frombuffer(self._rater, np.uint64)

    @property
    def side(self) -> np.ndarray:
        """The number of each pair's side in SIDES; MISSING where nobody knows it."""
        return np.frombuffer(self._side, np.int8)

    def on(self, side: Side) -> np.ndarray:
        """Whether each pair is on this side."""
        return self.side == SIDES.index(side)

    def same_pairs(self) -> list[np.ndarray]:
        """The places of pairs with the same prompt and the same two answers, whichever of them is better."""
        return equal_values(np.frombuffer(self._pair, np.uint64))

    def first_of_same(self) -> np.ndarray:
        """For each pair, the place of the first one that says the same: the same answers, verdict and rater."""
        first, verdict, rater = np.arange(len(self)), self.verdict, self.rater
        for places in self.same_pairs():
            said: dict[tuple[int, int], int] = {}
            for place in places:
                first[place] = said.setdefault((int(verdict[place]), int(rater[place])), int(place))
        return first

    def number_of(self, prompt_id: str) -> int:
        """The number of a prompt that was taken in."""
        return self._prompts[_hash(prompt_id)]

    def prompts_near_heldout(self, threshold: float, used: np.ndarray) -> np.ndarray:
        """For each prompt by its number, whether it is not held out but nearly equal to one that is.

        used: the numbers of the prompts that are compared, each once. All others are taken for different.
        """
        if self.near_prompts is None:
            raise ValueError("these sketches do not compare prompts")
        places = np.frombuffer(self._near_places, np.int64)[used]
        if (places == MISSING).any():
            raise ValueError("a prompt was taken in without `compares`")
        group, heldout = self.near_prompts.groups(threshold, places), self.heldout_prompts[used]
        near = np.zeros(len(self._prompts), bool)
        near[used] = np.isin(group, group[heldout]) & ~heldout
        return near

    @property
    def heldout_prompts(self) -> np.ndarray:
        """Whether each prompt, by its number, is held out."""
        return np.frombuffer(self._sides_of_prompts, np.int8) == SIDES.index("heldout")


def _number_of(side: Side | None) -> int:
    return MISSING if side is None else SIDES.index(side)


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one text."""
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
