"""Curates pairs that are in memory: decides what happens to each, enters it in the ledger, and puts them into the parts of a run."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from configs.curation import CurationConfig
from rewards.comparisons import Comparison, PromptRecord
from rewards.curation.deciding import count_repeated, decide, look_near_heldout
from rewards.curation.ledger import HELD_OUT, KEEP, LABELER, PROMPTS, End, Ledger, move
from rewards.curation.sketches import SIDES, Sketches
from rewards.data.parts import PreferenceData
from rewards.data.splits import Side

PARTS: dict[End, Side] = {KEEP: "training", move(HELD_OUT): "heldout", move(LABELER): "labeler"}
"""The end of a pair -> the part of the run that it is in."""


@dataclass(frozen=True)
class Curated:
    """What is left. parts: the pairs of each side. with_prompts: the same, and the pairs of which only the prompt is used."""

    parts: dict[Side, list[Comparison]]
    with_prompts: dict[Side, list[Comparison]]
    ledger: Ledger
    sketches: Sketches
    near: np.ndarray | None
    removes_near: bool

    def is_removed(self, prompt_id: str) -> bool:
        """Whether a prompt is left out because it is nearly a held-out one."""
        return self.removes_near and self.near is not None and bool(self.near[self.sketches.number_of(prompt_id)])

    def as_data(self, prompts: list[PromptRecord], heldout_prompts: list[PromptRecord], skipped: Counter[str]) -> PreferenceData:
        """All of it as the data of a run, with these prompts."""
        parts, near = self.parts, {} if self.near is None else {"near_heldout": int(self.near.sum())}
        repeated = count_repeated(self.sketches) | near
        return PreferenceData(
            parts["training"], parts["heldout"], prompts, heldout_prompts, parts["labeler"], skipped, self.ledger, repeated
        )


def repeated_in(pairs: Iterable[Comparison]) -> dict[str, int]:
    """What is there twice among the rows that a reward model is trained on (`count_repeated`). Nothing is left out."""
    sketches = Sketches(compares_prompts=False)
    for pair in pairs:
        sketches.add(pair, "training")
    return count_repeated(sketches)


def curate(
    pairs: Sequence[tuple[Comparison, Side]],
    prompts: Iterable[tuple[PromptRecord, Side]],
    config: CurationConfig,
    max_pairs: int | None,
    seed: int,
    ledger: Ledger,
) -> Curated:
    """Curate pairs, each given with its side. `ledger` has the rows that could not be read, and gets all others.

    prompts: those that no pair needs to ask, for the comparison with held-out prompts.
    """
    sketches = Sketches(compares_prompts=config.near_heldout != "ignore")
    for pair, side in pairs:
        sketches.add(pair, side)
    for record, side in prompts:
        sketches.add_prompt(record.prompt_id, record.prompt, side)
    near = look_near_heldout(sketches, config)
    parts: dict[Side, list[Comparison]] = {side: [] for side in SIDES}
    with_prompts: dict[Side, list[Comparison]] = {side: [] for side in SIDES}
    for (pair, side), end in zip(pairs, decide(sketches, config, near, max_pairs, seed), strict=True):
        ledger.add(pair.source, end)
        if end in PARTS:
            parts[PARTS[end]].append(replace(pair, heldout=side == "heldout"))
        if end in PARTS or end == move(PROMPTS):
            with_prompts[side].append(pair)
    ledger.check()
    return Curated(parts, with_prompts, ledger, sketches, near, config.near_heldout == "remove")
