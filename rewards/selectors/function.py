"""The user's own selector, named in `select.kind` as `module:function` or `file.py:function`. Nothing is trained.

    def score(answers):                    # rewards/comparisons.py: Answer has `prompt`, `completion` and `finished`
        return [-len(answer.completion) for answer in answers]

It returns a number for each answer. Of a prompt's candidates, the one with the highest number is chosen.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from configs import user_functions
from configs.errors import UserError
from rewards.comparisons import Answer
from rewards.reward_model import Chooser
from rewards.selectors.selector import Selector, SelectTask


def select(task: SelectTask) -> Selector:
    """The selector that the config names."""
    name = task.config.kind
    score: Chooser = user_functions.load(name)

    def choose(answers: Sequence[Answer]) -> list[float]:
        scores = [float(value) for value in score(answers)]
        if len(scores) != len(answers):
            raise UserError(f"it gave {len(scores)} scores for {len(answers)} answers", name, "return one score for each answer")
        return scores

    def save(folder: Path) -> None:
        (folder / "selector.json").write_text(json.dumps({"function": name}) + "\n", encoding="utf-8")

    return Selector(choose, save)
