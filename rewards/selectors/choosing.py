"""The favorite among a prompt's candidates, and why."""

from collections.abc import Sequence
from dataclasses import dataclass

from rewards.comparisons import Answer
from rewards.selectors.selector import Candidates, Selector


@dataclass(frozen=True)
class Choice:
    """The favorite of one group. scores, all_reasons: of each candidate. number: the favorite's, counted from 0."""

    group: Candidates
    number: int
    scores: Sequence[float]
    all_reasons: Sequence[dict[str, float]]

    @property
    def answer(self) -> Answer:
        """The favorite itself."""
        return self.group.answers[self.number]

    @property
    def score(self) -> float:
        return self.scores[self.number]

    @property
    def runner_up(self) -> float | None:
        """The second-highest score, if there is one."""
        return max((score for i, score in enumerate(self.scores) if i != self.number), default=None)

    @property
    def reasons(self) -> dict[str, float]:
        """What the favorite's score is made of."""
        return self.all_reasons[self.number]

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

    def candidates(self) -> list[dict[str, object]]:
        """All candidates as plain data, in their order."""
        return [
            {"completion": answer.completion, "finished": answer.finished, "score": score, "reasons": reasons}
            for answer, score, reasons in zip(self.group.answers, self.scores, self.all_reasons, strict=True)
        ]


def choose(selector: Selector, groups: Sequence[Candidates]) -> list[Choice]:
    """The favorite of each group. Of candidates with equal scores, it is the first."""
    return [
        Choice(group, scores.index(max(scores)), scores, selector.reasons(group))
        for group, scores in zip(groups, selector.score(groups), strict=True)
    ]
