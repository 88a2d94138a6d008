"""Selectors that are not fitted. Others are compared with them."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from configs.seeds import derive_seed
from rewards.selectors.selector import Candidates, Selector, SelectTask, Tools

FILE = "selector.json"


@dataclass(frozen=True)
class _Unfitted(Selector):
    """A selector that is nothing but its kind."""

    @classmethod
    def fit(cls, task: SelectTask) -> Self:
        """The selector, whatever the comparisons say."""
        return cls(task.tools)

    @classmethod
    def load(cls, folder: Path, tools: Tools) -> Self:
        """The selector. There is nothing to read."""
        return cls(tools)

    def save(self, folder: Path) -> None:
        """Say what it is."""
        (folder / FILE).write_text(json.dumps({"selector": type(self).__name__}) + "\n", encoding="utf-8")


class RewardModel(_Unfitted):
    """Chooses what the reward model scores highest."""

    def score(self, groups: Sequence[Candidates]) -> list[list[float]]:
        """The reward model's scores."""
        return self.tools.rewards(groups)


class Rules(_Unfitted):
    """Chooses the candidate with the fewest defects."""

    def score(self, groups: Sequence[Candidates]) -> list[list[float]]:
        """Minus the number of rules that find a defect."""
        return [[-float(sum(found.values())) for found in rows] for rows in self.tools.defects(groups)]

    def reasons(self, group: Candidates) -> list[dict[str, float]]:
        """-1 for each defect, by the rule's name."""
        return [{name: -1.0 for name, has in found.items() if has} for found in self.tools.defects([group])[0]]


class Longest(_Unfitted):
    """Chooses the longest candidate."""

    def score(self, groups: Sequence[Candidates]) -> list[list[float]]:
        """Lengths in characters."""
        return [[float(len(answer.completion)) for answer in group.answers] for group in groups]


@dataclass(frozen=True)
class Random(Selector):
    """Chooses by chance, which `seed`, the prompt's id and a candidate's number decide."""

    seed: int

    @classmethod
    def fit(cls, task: SelectTask) -> "Random":
        """A selector with the seed of the stage."""
        return cls(task.tools, task.seed)

    @classmethod
    def load(cls, folder: Path, tools: Tools) -> "Random":
        """What `save` has written."""
        return cls(tools, json.loads((folder / FILE).read_text(encoding="utf-8"))["seed"])

    def score(self, groups: Sequence[Candidates]) -> list[list[float]]:
        """Random numbers from 0 to 1."""
        return [[random.Random(derive_seed(self.seed, g.prompt_id, k)).random() for k in range(len(g.answers))] for g in groups]

    def save(self, folder: Path) -> None:
        """Write the seed."""
        (folder / FILE).write_text(json.dumps({"selector": "Random", "seed": self.seed}) + "\n", encoding="utf-8")
