"""The parts into which the original data are split."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.data import DataConfig
from configs.errors import UserError
from rewards.comparisons import Comparison, Demonstration, PromptRecord
from rewards.curation.ledger import Ledger
from rewards.data.counts import SourceCounts
from rewards.data.splits import Side

NAMES: dict[Side, str] = {"training": "training", "heldout": "held-out data", "labeler": "the labeler"}


@dataclass
class PreferenceData:
    """What a run starts from. No prompt in `heldout` or `heldout_prompts` opens like a prompt of the other parts.

    counts: the account of each source; the embedded world has none. ties, by_source: of all pairs, and of the training pairs. ledger: the
    end of each row. repeated: what was there twice before anything was removed (`Curator.repeated`).
    """

    pairs: Sequence[Comparison]
    heldout: Sequence[Comparison]
    prompts: Sequence[PromptRecord]
    heldout_prompts: Sequence[PromptRecord]
    labeler_pairs: Sequence[Comparison] = ()
    answers: Sequence[Demonstration] = ()
    counts: list[SourceCounts] = field(default_factory=list)
    ties: int = 0
    by_source: Counter[str] = field(default_factory=Counter)
    ledger: Ledger = field(default_factory=Ledger)
    repeated: dict[str, int] = field(default_factory=dict)

    @property
    def skipped(self) -> Counter[str]:
        """The rows that are left out, by reason; of several sources with the source's name."""
        return self._by_reason({count.source.name: count.left_out for count in self.counts})

    @property
    def changed(self) -> Counter[str]:
        """The texts that were normalized, by what was changed, as `skipped`."""
        return self._by_reason({count.source.name: count.changed for count in self.counts})

    def _by_reason(self, by_source: Mapping[str, Counter[str]]) -> Counter[str]:
        found: Counter[str] = Counter()
        for name, counts in by_source.items():
            for reason, count in counts.items():
                found[f"{name}: {reason}" if len(by_source) > 1 else reason] += count
        return found


def check_parts(parts: Mapping[Side, Sequence[Any]], config: DataConfig, where: str) -> None:
    """Raises UserError if one part has no pair or prompt, or only ties."""
    settings: dict[Side, str] = {"training": "data.heldout_fraction", "heldout": "data.heldout_fraction"}
    if config.labeler_fraction:
        settings["labeler"] = "data.labeler_fraction"
    for side, setting in settings.items():
        if all(getattr(row, "tie", False) for row in parts[side]):
            what = "none is left" if not parts[side] else "all that are left are ties"
            raise UserError(f"too few pairs: {what} for {NAMES[side]}", where, f"give more data or change {setting}")
