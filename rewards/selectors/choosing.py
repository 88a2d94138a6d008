"""The favourite among a prompt's candidates, and why."""

from collections.abc import Sequence
from dataclasses import dataclass

from rewards.comparisons import Answer
from rewards.selectors.selector import Candidates, Selector


@dataclass(frozen=True)
class Choice:
    """The favourite of one group. scores, reasons: those of each candidate. number: the favourite's, counted from 0."""

    group: Candidates
    scores: Sequence[float]
    reasons: Sequence[dict[str, float]]
    number: int

    @property
    def answer(self) -> Answer:
        """The favourite itself."""
        return self.group.answers[self.number]

    def row(self) -> dict[str, object]:
        """The choice as plain data. `runner_up` is the second-highest score, None if there is a single candidate."""
        others = [score for i, score in enumerate(self.scores) if i != self.number]
        return {
            "prompt_id": self.group.prompt_id,
            "prompt": self.group.prompt,
            "source": self.group.source,
            "completion": self.answer.completion,
            "finished": self.answer.finished,
            "score": self.scores[self.number],
            "runner_up": max(others, default=None),
            "reasons": self.reasons[self.number],
        }

    def candidates(self) -> list[dict[str, object]]:
        """All candidates as plain data, in their order."""
        return [
            {"completion": answer.completion, "finished": answer.finished, "score": score, "reasons": reasons}
            for answer, score, reasons in zip(self.group.answers, self.scores, self.reasons, strict=True)
        ]


def choose(selector: Selector, groups: Sequence[Candidates]) -> list[Choice]:
    """The favourite of each group. Of candidates with equal scores, it is the first."""
    return [
        Choice(group, scores, selector.reasons(group), scores.index(max(scores)))
        for group, scores in zip(groups, selector.score(groups), strict=True)
    ]
