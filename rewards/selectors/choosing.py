"""The favourite among a prompt's candidates, and why."""

from collections.abc import Sequence
from dataclasses import dataclass

from rewards.comparisons import Answer
from rewards.selectors.selector import Candidates, Selector


@dataclass(frozen=True)
class Choice:
    """The favourite of one group. `number` counts the group's candidates from 0. runner_up: the second-highest score, if there is one."""

    group: Candidates
    number: int
    score: float
    runner_up: float | None
    reasons: dict[str, float]

    @property
    def answer(self) -> Answer:
        """The favourite itself."""
        return self.group.answers[self.number]

    def row(self) -> dict[str, object]:
        """The choice as plain data."""
        return {
            "prompt_id": self.group.prompt_id,
            "prompt": self.group.prompt,
            "source": self.group.source,
            "completion": self.answer.completion,
            "finished": self.answer.finished,
            "score": self.score,
            "runner_up": self.runner_up,
            "reasons": self.reasons,
        }


def choose(selector: Selector, groups: Sequence[Candidates]) -> list[Choice]:
    """The favourite of each group. Of candidates with equal scores, it is the first."""
    choices = []
    for group, scores in zip(groups, selector.score(groups), strict=True):
        best, *rest = sorted(range(len(scores)), key=lambda i: -scores[i])
        runner_up = scores[rest[0]] if rest else None
        choices.append(Choice(group, best, scores[best], runner_up, selector.reasons(group)[best]))
    return choices
