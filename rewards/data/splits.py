"""Which prompts a run may train on: one id for a prompt, and one law for its side. Plain data; imports no ML library.

A prompt's side depends on its opening and the run's seed alone. It is therefore the same in every round, for original pairs, for
samples, and for labels that come from elsewhere, by ids or as whole texts. Comparisons of held-out prompts only ever judge.
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
"""Hexadecimal digits of an id: 64 bits, so two of ten million prompts share one with a probability of 3e-6."""
HUMAN_TURN = re.compile(r"\s*Human:(.*?)(?=\n\nAssistant:|\Z)", re.DOTALL)
"""The first turn of a dialogue in HH's text form."""


def content_id(prompt: Prompt) -> str:
    """The name of a prompt: a hash of its content, in canonical JSON.

    A text and the one message that says the same have different ids. They have one opening, and so one side.
    """
    canonical = json.dumps(prompt, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:ID_LENGTH]


def opening(prompt: Prompt) -> str:
    """What a dialogue opens with: its first user turn, as messages or in HH's text form. Any other text is an opening as a whole."""
    if isinstance(prompt, str):
        turn = HUMAN_TURN.match(prompt)
        return (turn[1] if turn else prompt).strip()
    return next((message["content"].strip() for message in prompt if message["role"] == "user"), "")


@dataclass(frozen=True)
class Split:
    """The law of one run. `seed` is the run's, never a round's; `labeler_fraction` is the share of what is not held out."""

    seed: int
    heldout_fraction: float
    labeler_fraction: float = 0.0

    def side(self, prompt: Prompt) -> Side:
        """The part of the original data that a prompt belongs to."""
        if self.holds_out(prompt):
            return "heldout"
        return "labeler" if position("labeler", self.seed, prompt) < self.labeler_fraction else "training"

    def holds_out(self, prompt: Prompt) -> bool:
        """Whether nothing may be trained on this prompt."""
        return position("heldout", self.seed, prompt) < self.heldout_fraction


def position(law: str, seed: object, prompt: Prompt) -> float:
    """A number in [0, 1) that depends on the law's name, the seed and the prompt's opening."""
    return random.Random(derive_seed(seed, law, opening(prompt))).random()
