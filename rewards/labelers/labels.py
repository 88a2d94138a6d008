"""What a labeler is given, and what it gives back."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from configs.endpoints import JudgeConfig
from configs.schema import LabelerConfig
from policies.checkpoints import Checkpoints
from policies.reporting import Report
from rewards.comparisons import Comparison, Sample
from rewards.data.lengths import TokenLimits
from rewards.data.splits import Split
from rewards.rules.reply import ExpectedLanguage
from rewards.scoring import AnswerScorer

Committee = Mapping[str, Mapping[str, float]]
"""Name of a member -> the score of each sample by its id. The member that is listed first knows most."""


@dataclass(frozen=True)
class Earlier:
    """A round that is labeled already: what was sampled in it, and the comparisons that it used."""

    round_number: int
    samples: Sequence[Sample]
    comparisons: Sequence[Comparison]


@dataclass(frozen=True)
class LabelTask:
    """The samples of a round that somebody has to compare, and what a labeler may use for that."""

    samples: Sequence[Sample]
    samples_file: Path
    """Where the samples are on disk, for people."""
    round_number: int
    config: LabelerConfig
    split: Split
    """Decides which prompts are held out."""
    seed: int
    checkpoints: Checkpoints
    report: Report
    get_limits: Callable[[], TokenLimits]
    """The token limits for labels that bring their own texts. A function, because the base's tokenizer has to be loaded for it."""
    get_scorer: Callable[[], AnswerScorer]
    """Loads the reward model of `labeler.kind: reward-model`."""
    committee: Committee = field(default_factory=dict)
    """Picks the pairs (committee.py). Empty if `labeler.pick` is `random`."""
    judge: JudgeConfig = JudgeConfig()
    """Only for `labeler.kind: judge`: whom to ask."""
    earlier: Sequence[Earlier] = ()
    """Only with `labeler.late: use`: the rounds before this one."""
    part: str = ""
    """Ends the names of this labeler's shards, where several labelers work on one task."""
    is_normalized: bool = False
    """Whether labels that bring their own texts are normalized, as the run's data was (rewards/data/normalizing.py)."""
    expected_language: ExpectedLanguage = "same"
    """What the rules of `labeler.kind: rules` are told."""
    answers: Sequence[Sample] = ()
    """What is compared for win rates: answers of this round's policy, of the last round's, and of the SFT policy, to the same prompts."""


@dataclass
class Labels:
    """Comparisons for one round. `left_out` counts the labels that are not used, by reason. `metrics` has what else is to be told.

    wins: the comparisons of policies, which only measure. With several raters there is a row for each vote.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, Any] = field(default_factory=dict)
    wins: list[Comparison] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """All labels that there were."""
        return len(self.comparisons) + len(self.wins) + self.left_out.total()

    def counts(self) -> dict[str, Any]:
        """The metrics of the label stage."""
        return {
            "comparisons": len(self.comparisons),
            "heldout": sum(row.heldout for row in self.comparisons),
            "ties": sum(row.tie for row in self.comparisons),
            "picked": dict(Counter(row.picked for row in self.comparisons if row.picked and not row.heldout)),
            "left_out": dict(self.left_out),
            **({"win_comparisons": len(self.wins)} if self.wins else {}),
            **self.metrics,
        }


class Labeler(Protocol):
    """Compares samples. Raises WaitingForLabels if the labels are not there yet."""

    def __call__(self, task: LabelTask) -> Labels: ...
