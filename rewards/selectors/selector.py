"""What a selector is: it gives each candidate of a prompt a number, and the candidate with the highest number is chosen."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from configs.schema import SelectConfig
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.reporting import Report
from rewards.comparisons import Answer, CandidateGroup, Prompt, Sample
from rewards.rules.reply import Rule
from rewards.scoring import Scorer
from rewards.selectors.examples import Example


class Candidates(NamedTuple):
    """Completions of one prompt that are to be compared with each other."""

    prompt_id: str
    prompt: Prompt
    source: str
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Tools:
    """What a selector may look at candidates with. The backbone has the adapter `sft`.

    reward: a reward model that was fitted without any label of the candidates. Which one that is differs from use to use, so it is no part
    of a selector: the round's own one for the samples that the round has labelled, and the retrained one for all samples after that.
    """

    backbone: Backbone
    reward: Scorer
    rules: Mapping[str, Rule]
    """By name, as `rewards.rules.find_rules` gives them."""
    measured: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """What has been measured with these tools, so that nothing is measured twice (`features.py`)."""


@dataclass(frozen=True)
class Selector(ABC):
    """A way to choose among candidates. It must never see which candidate a label prefers."""

    tools: Tools

    @abstractmethod
    def score(self, groups: Sequence[Candidates]) -> list[list[float]]:
        """One number for each candidate of each group. Of a group's candidates, the one with the highest number is chosen."""

    def reasons(self, group: Candidates) -> list[dict[str, float]]:
        """What each candidate's score is made of, by name. Empty where the score is a single number."""
        return [{} for _ in group.answers]

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what `load` needs into a folder that exists."""

    def using(self, tools: Tools) -> Self:
        """The same selector with other tools."""
        return replace(self, tools=tools)


@dataclass(frozen=True)
class SelectTask:
    """What a selector may be made from. Nothing in it is about a held-out prompt."""

    tools: Tools
    """What the selector will look at candidates with."""
    groups: Sequence[CandidateGroup]
    """Compared candidates of the training prompts of all rounds, with the comparisons that each has won."""
    examples: Sequence[Example]
    """Comparisons of training prompts of all rounds as features of both completions (`features.py`)."""
    config: SelectConfig
    temperature: float
    """The sampling temperature of the run."""
    checkpoints: Checkpoints
    report: Report
    seed: int


def group_samples(samples: Sequence[Sample]) -> list[Candidates]:
    """All samples of each prompt as candidates, in order of first appearance."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.prompt_id, []).append(sample)
    return [
        Candidates(prompt_id, group[0].prompt, group[0].source, [Answer(s.prompt, s.completion, s.finished) for s in group])
        for prompt_id, group in groups.items()
    ]
