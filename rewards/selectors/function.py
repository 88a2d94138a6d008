"""The user's own selector, named in `select.kinds` as `module:function` or `file.py:function`. Nothing is trained.

    def score(answers):                    # rewards/comparisons.py: Answer has `prompt`, `completion` and `finished`
        return [-len(answer.completion) for answer in answers]

It is called once for each prompt, with all candidates of the prompt, so it can compare them with each other. It returns a number for
each of them. The candidate with the highest number is chosen.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rewards.selectors.selector import Candidates, Selector, Tools
from rewards.user_scores import ScoreAnswers, load_scores


@dataclass(frozen=True)
class FunctionSelector(Selector):
    """Scores candidates by a function of the user's. `name` is the function's name in the config."""

    name: str
    function: ScoreAnswers

    def score(self, groups: Sequence[Candidates]) -> list[list[float]]:
        """What the function returns. Raises UserError if that is not one number for each answer."""
        return [self.function(group.answers) for group in groups]

    def save(self, folder: Path) -> None:
        """Write the function's name."""
        (folder / "selector.json").write_text(json.dumps({"function": self.name}) + "\n", encoding="utf-8")


def make(name: str, tools: Tools) -> FunctionSelector:
    """The selector that the config names."""
    return FunctionSelector(tools, name, load_scores(name))
