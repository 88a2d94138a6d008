"""Which prompts a run may train on, and the ids of prompts. Plain data; imports no ML library.

The side of a prompt depends only on its opening and the run's seed. Therefore it is the same in every round, and the same for original
pairs, for samples, and for labels from elsewhere, whether these name samples or give whole texts. Comparisons of held-out prompts only
judge.
"""

import hashlib
import json
import random
import re
from dataclasses import dataclass
from typing import Literal

from configs.seeds import derive_seed
from rewards.comparisons import Prompt

Side = Literal["training", "heldout", "labeler"]
ID_LENGTH = 16
"""Hexadecimal digits of an id. These are 64 bits: among ten million prompts, two share an id with a probability of 3e-6."""
HUMAN_TURN = re.compile(r"\s*Human:(.*?)(?=\n\n(?:Human|Assistant):|\Z)", re.DOTALL)
"""The first turn of a dialogue in HH's text form, which another one of the same speaker may follow."""
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def content_id(prompt: Prompt) -> str:
    """The id of a prompt: a hash of its content in canonical JSON.

    A text and a single message with the same content have different ids, but the same opening and so the same side.
    """
    return hashlib.sha256(_CANONICAL.encode(prompt).encode()).hexdigest()[:ID_LENGTH]


def opening(prompt: Prompt) -> str:
    """The first user turn of a dialogue, given as messages or in HH's text form. For any other text, the whole text."""
    if isinstance(prompt, str):
        turn = HUMAN_TURN.match(prompt)
        return (turn[1] if turn else prompt).strip()
    return next((message["content"].strip() for message in prompt if message["role"] == "user"), "")


@dataclass(frozen=True)
class Split:
    """How one run splits its prompts. `seed` is the run's, never a round's. `labeler_fraction` is a fraction of what is not held out."""

    seed: int
    heldout_fraction: float
    labeler_fraction: float = 0.0

    def side(self, prompt: Prompt) -> Side:
        """The part of the original data that a prompt belongs to."""
        if self.holds_out(prompt):
            return "heldout"
        if self.labeler_fraction and position("labeler", self.seed, prompt) < self.labeler_fraction:
            return "labeler"
        return "training"

    def holds_out(self, prompt: Prompt) -> bool:
        """Whether nothing may be trained on this prompt."""
        return position("heldout", self.seed, prompt) < self.heldout_fraction


def position(split: str, seed: object, prompt: Prompt) -> float:
    """A number in [0, 1) that depends on the name of the split, the seed and the opening of the prompt."""
    return random.Random(derive_seed(seed, split, opening(prompt))).random()
