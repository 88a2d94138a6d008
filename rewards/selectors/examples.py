"""Comparisons as features of both completions: what the `features` selector is fitted on. Plain data.

The examples of a round are made when its labels come, with the reward model that PPO used in that round, which was fitted before these
labels existed. So every reward score in an example is out of fold, by time, and no folds have to be trained. Later rounds keep the
examples as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rewards.comparisons import read_jsonl, write_jsonl

FILE = "examples.jsonl"


@dataclass(frozen=True)
class Example:
    """A comparison that is no tie, as numbers. heldout: it only judges, and nothing is fitted on it."""

    prompt_id: str
    generation: int | None
    heldout: bool
    chosen: dict[str, float]
    rejected: dict[str, float]


def read_examples(folder: Path) -> list[Example]:
    """The examples that a round's `select` stage has written; none if it has not written any."""
    return read_jsonl(folder / FILE, Example) if (folder / FILE).exists() else []


def write_examples(folder: Path, examples: Sequence[Example]) -> None:
    """Write the examples of a round's `select` stage."""
    write_jsonl(folder / FILE, examples)


def merge(earlier: Sequence[Example], new: Sequence[Example], max_examples: int) -> list[Example]:
    """The newest `max_examples` examples of training prompts, in order of time, and then the held-out ones of this round."""
    training = [row for row in (*earlier, *new) if not row.heldout]
    return training[-max_examples:] + [row for row in new if row.heldout]
