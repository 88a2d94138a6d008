"""Selectors: given a prompt's candidates, which one will be preferred? `select.kinds` names those that a run makes and judges.

    features             logistic regression on features of each candidate (features.py), the default
    answer-features      the same without agreement among the candidates, which is what PPO can maximize
    reward-model         the reward model's score (simple.py)
    model                an adapter and a head, trained on the comparisons of all rounds (listwise.py)
    rules                as few defects as possible (simple.py)
    longest, random      for comparison (simple.py)
    file.py:function     a user function that scores answers, also as module:function (function.py)

`select.use` names the one that chooses. To add a selector, write a subclass of `Selector` with a function that fits it and one that
loads it, and enter them here and in `SelectorName` (configs/judging.py). Every selector is judged in the same way (judging.py).
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from configs import user_functions
from rewards.selectors import features, function, listwise, simple
from rewards.selectors.selector import Candidates, Selector, SelectTask, Tools, group_samples

__all__ = ["SELECTORS", "Candidates", "SelectTask", "Selector", "SelectorKind", "Tools", "fit", "folder_of", "group_samples", "load"]


class SelectorKind(NamedTuple):
    """How a kind of selector is made: from a round's comparisons, or from what `save` wrote."""

    fit: Callable[[SelectTask], Selector]
    load: Callable[[Path, Tools], Selector]


SELECTORS: dict[str, SelectorKind] = {
    "features": SelectorKind(features.fit, features.load),
    "answer-features": SelectorKind(features.fit_without_agreement, features.load),
    "reward-model": SelectorKind(simple.RewardModel.fit, simple.RewardModel.load),
    "model": SelectorKind(listwise.fit, listwise.load),
    "rules": SelectorKind(simple.Rules.fit, simple.Rules.load),
    "longest": SelectorKind(simple.Longest.fit, simple.Longest.load),
    "random": SelectorKind(simple.Random.fit, simple.Random.load),
}
"""The built-in selectors by kind."""


def fit(kind: str, task: SelectTask) -> Selector:
    """Make a selector of one kind."""
    return function.make(kind, task.tools) if user_functions.is_function(kind) else SELECTORS[kind].fit(task)


def load(folder: Path, kind: str, tools: Tools) -> Selector:
    """The selector of one kind that the `select` stage with the output `folder` has made."""
    place = folder / folder_of(kind)
    return function.make(kind, tools) if user_functions.is_function(kind) else SELECTORS[kind].load(place, tools)


def folder_of(kind: str) -> str:
    """The name of the folder of a kind in the output of the `select` stage."""
    return re.sub(r"[^\w.-]+", "-", kind)
