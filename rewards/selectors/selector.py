"""What a selector is made from, and what it can do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.schema import SelectConfig
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.reporting import Report
from rewards.comparisons import CandidateGroup
from rewards.reward_model import Chooser
from rewards.scoring import Scorer


@dataclass(frozen=True)
class SelectTask:
    """What a selector may be made from."""

    backbone: Backbone
    groups: Sequence[CandidateGroup]
    """Candidates of the training prompts, with the comparisons that each has won."""
    config: SelectConfig
    checkpoints: Checkpoints
    report: Report
    seed: int
    reward_scorer: Scorer
    """This round's retrained reward model."""


@dataclass(frozen=True)
class Selector:
    """A way to choose among candidates: the one with the highest score is chosen. `save` writes it to a directory."""

    choose: Chooser
    save: Callable[[Path], object]
    log: Sequence[dict[str, float]] = ()
    """One row for each step of its training, if it was trained."""
