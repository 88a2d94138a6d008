"""The parts into which the original data are split."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.errors import UserError
from configs.schema import DataConfig
from rewards.comparisons import Comparison, PromptRecord
from rewards.curation.ledger import Ledger
from rewards.data.splits import Side

NAMES: dict[Side, str] = {"training": "training", "heldout": "held-out data", "labeler": "the labeler"}


@dataclass
class PreferenceData:
    """What a run starts from. No prompt in `heldout` or `heldout_prompts` opens like a prompt of the other parts."""

    pairs: list[Comparison]
    heldout: list[Comparison]
    prompts: list[PromptRecord]
    heldout_prompts: list[PromptRecord]
    labeler_pairs: list[Comparison] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    ledger: Ledger = field(default_factory=Ledger)
    repeated: dict[str, int] = field(default_factory=dict)
    """What was there twice before anything was removed: `duplicates` (pairs that say what an earlier one says), `contradictions` (pairs
    of answers that both have been preferred) and `near_heldout` (training prompts nearly equal to a held-out one; missing if nobody
    looked)."""


def check_parts(parts: Mapping[Side, Sequence[Any]], config: DataConfig, where: str) -> None:
    """Raises UserError if one part has no pair or prompt, or only ties."""
    settings: dict[Side, str] = {"training": "data.heldout_fraction", "heldout": "data.heldout_fraction"}
    if config.labeler_fraction:
        settings["labeler"] = "data.labeler_fraction"
    for side, setting in settings.items():
        if all(getattr(row, "tie", False) for row in parts[side]):
            what = "none is left" if not parts[side] else "all that are left are ties"
            raise UserError(f"too few pairs: {what} for {NAMES[side]}", where, f"give more data or change {setting}")
