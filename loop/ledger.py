"""The ledger of a run, put together from what its stages have measured. It grows by round, and it adds up at any time.

The stages `data` and `filter` account for the original rows. Each round adds what was generated: the samples, those of them that were
labeled, and those that the selector has kept. Must never import torch or Ray.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from loop.round import DATA, FILTER, KEEP, LABEL, SAMPLE
from loop.store.journal import RunState
from loop.store.layout import place
from rewards.curation.ledger import Ledger


@dataclass(frozen=True)
class RoundAccount:
    """What a round has generated. candidates + carried = kept + left_out, and samples = candidates + heldout_samples.

    samples: completions that were drawn. heldout_samples: those of held-out prompts, which are never kept. candidates: all others.
    labeled: comparisons of samples. labels_left_out: labels that were not used, by reason. carried: what earlier rounds had kept.
    kept: completions that are training data after this round. left_out: candidates and carried ones that are not, by reason.
    """

    round: str
    samples: int
    heldout_samples: int
    labeled: int
    labels_left_out: dict[str, int]
    candidates: int
    carried: int
    kept: int
    left_out: dict[str, int] = field(default_factory=dict)

    def adds_up(self) -> bool:
        """Whether each completion has one end."""
        return self.candidates + self.carried == self.kept + sum(self.left_out.values()) and self.heldout_samples >= 0


@dataclass(frozen=True)
class RunLedger:
    """The original rows by source with what was generated from their prompts, and the account of each finished round."""

    sources: Ledger
    rounds: list[RoundAccount]

    def as_json(self) -> dict[str, Any]:
        """The ledger as JSON values."""
        return {"sources": self.sources.as_json(), "rounds": [asdict(account) for account in self.rounds]}


def run_ledger(state: RunState) -> RunLedger | None:
    """The ledger as far as the run has come. None before its data was read, and for a run of an older version, which has none."""
    found = [state.stage(stage.name, None).metrics.get("ledger") for stage in (FILTER, DATA)]
    known = next((ledger for ledger in found if ledger is not None), None)
    if known is None:
        return None
    ledger, accounts = Ledger.from_json(known), []
    for round_number in sorted(state.rounds):
        kept = state.stage(KEEP.name, round_number).metrics
        if "newly_kept" in kept:
            ledger.generate(place(round_number), kept["newly_kept"])
            accounts.append(_account(state, round_number))
    return RunLedger(ledger, accounts)


def _account(state: RunState, round_number: int) -> RoundAccount:
    sample, label, keep = (state.stage(stage.name, round_number).metrics for stage in (SAMPLE, LABEL, KEEP))
    return RoundAccount(
        place(round_number),
        sample["samples"],
        sample["samples"] - keep["generated"],
        label["comparisons"],
        label.get("left_out", {}),
        keep["generated"],
        keep["carried"],
        keep["kept"],
        keep["left_out"],
    )
