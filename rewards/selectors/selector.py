"""What a selector is: it gives each candidate of a prompt a number, and the candidate with the highest number is chosen."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from configs.schema import SelectConfig
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.reporting import Report
from policies.tokenization import encode_completion, encode_prompt
from rewards.comparisons import Answer, CandidateGroup, Comparison, Prompt, Sample
from rewards.rules.reply import Rule
from rewards.scoring import Scorer
from rewards.selectors.examples import Example
from rewards.world.replies import defects_of

Item = TypeVar("Item")
Measured = TypeVar("Measured")


class Candidates(NamedTuple):
    """Completions of one prompt that are to be compared with each other."""

    prompt_id: str
    prompt: Prompt
    source: str
    answers: list[Answer]


class Encoded(NamedTuple):
    """A candidate as token ids."""

    prompt: list[int]
    completion: list[int]


@dataclass(frozen=True)
class Tools:
    """What a selector may look at candidates with. The backbone has the adapter `sft`.

    reward: a reward model that was fitted without any label of the candidates. Which one that is differs from use to use, so it is no part
    of a selector: the round's own one for the samples that the round has labeled, and the retrained one for all samples after that.
    """

    backbone: Backbone
    reward: Scorer
    rules: Mapping[str, Rule]
    """By name, as `rewards.rules.find_rules` gives them."""
    measured: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """What `once` has measured. Tools that differ in the reward model only may share it."""

    def once(
        self, what: Hashable, groups: Sequence[Candidates], measure: Callable[[Sequence[Candidates]], list[list[Measured]]]
    ) -> list[list[Measured]]:
        """What `measure` gives for each candidate of each group. The same candidates are never measured twice.

        what: names the measurement. Many selectors need the same ones, and passes of the model take most of a selector's time.
        """
        keys = [(what, group.prompt_id, tuple((answer.completion, answer.finished) for answer in group.answers)) for group in groups]
        new = {key: group for key, group in zip(keys, groups, strict=True) if key not in self.measured}
        self.measured.update(zip(new, measure(list(new.values())) if new else [], strict=True))
        return [self.measured[key] for key in keys]

    def encoded(self, groups: Sequence[Candidates]) -> list[list[Encoded]]:
        """The token ids of each candidate, with the end token if it is finished, and those of its prompt."""
        tokenizer = self.backbone.tokenizer

        def encode(group: Candidates) -> list[Encoded]:
            prompt = encode_prompt(tokenizer, group.prompt)
            return [Encoded(prompt, encode_completion(tokenizer, answer.completion, answer.finished)) for answer in group.answers]

        return self.once("encoded", groups, lambda new: [encode(group) for group in new])

    def rewards(self, groups: Sequence[Candidates]) -> list[list[float]]:
        """The reward model's score of each candidate."""

        def score(new: Sequence[Candidates]) -> list[list[float]]:
            return by_group(self.encoded(new), lambda items: self.reward.score([one.prompt + one.completion for one in items]).tolist())

        return self.once(("rewards", self.reward.adapter), groups, score)

    def defects(self, groups: Sequence[Candidates]) -> list[list[dict[str, bool]]]:
        """Whether each candidate has each rule's defect."""

        def find(group: Candidates) -> list[dict[str, bool]]:
            of_prompt = group.prompt_id, group.prompt, group.source
            return [defects_of(*of_prompt, answer.completion, answer.finished, self.rules) for answer in group.answers]

        return self.once("defects", groups, lambda new: [find(group) for group in new])


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


def by_group(groups: Sequence[Sequence[Item]], measure: Callable[[list[Item]], Sequence[Measured]]) -> list[list[Measured]]:
    """Call `measure` once, with the items of all groups, and divide what it returns by group."""
    values = iter(measure([item for group in groups for item in group]))
    return [list(islice(values, len(group))) for group in groups]


def group_samples(samples: Sequence[Sample], labels: Sequence[Comparison] = ()) -> list[Candidates]:
    """All samples of each prompt as candidates, in order of first appearance.

    labels: comparisons whose completions are candidates too. Labels from a file may bring completions that no policy has written.
    """
    groups: dict[str, Candidates] = {}
    for sample in samples:
        group = groups.setdefault(sample.prompt_id, Candidates(sample.prompt_id, sample.prompt, sample.source, []))
        group.answers.append(Answer(group.prompt, sample.completion, sample.finished))
    for row in labels:
        group = groups.setdefault(row.prompt_id, Candidates(row.prompt_id, row.prompt, row.source, []))
        for completion, finished in ((row.chosen, row.chosen_finished), (row.rejected, row.rejected_finished)):
            if (completion, finished) not in {(answer.completion, answer.finished) for answer in group.answers}:
                group.answers.append(Answer(group.prompt, completion, finished))
    return list(groups.values())
