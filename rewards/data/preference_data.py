"""The original preference pairs: read from `data.source`, checked row by row, curated and split.

Every row that is left out is counted by its reason, and each row has one end in the ledger (`rewards/curation`). The opening of a pair's
prompt decides on which side of the split the pair is, so dialogues that open alike stay together (`splits.py`). Must never train anything.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from configs.curation import CurationConfig
from configs.errors import UserError
from configs.schema import DataConfig
from rewards.comparisons import Comparison, PromptRecord
from rewards.curation.applying import curate
from rewards.curation.ledger import Ledger, remove
from rewards.data import embedded, files, function, hub
from rewards.data.parts import PreferenceData, check_parts
from rewards.data.rows import BadRow, Rows, parse_row
from rewards.data.sources import check_sources, source_kind
from rewards.data.splits import Side, Split

SOURCES: dict[str, Callable[[str, DataConfig], Rows]] = {
    "file": files.read_rows,
    "hub": hub.read_rows,
    "function": function.read_rows,
}
"""Kinds of source (`sources.source_kind`) -> what reads all rows of one. The embedded world has no rows to check: `embedded.py`."""


class Read(NamedTuple):
    """A row that was read: a pair, or the reason why it is none."""

    source: str
    place: str
    pair: Comparison | None
    reason: str = ""


def read_pairs(config: DataConfig) -> Iterator[Read]:
    """All rows of the sources, in order. Raises UserError for a source that cannot be read.

    A row that does not name its source has the name of its file or data set, if there are several of them.
    """
    sources = config.source if isinstance(config.source, list) else [config.source]
    check_sources(sources, "data.source")
    for source in sources:
        name = "original" if len(sources) == 1 else Path(source).name
        for place, row in SOURCES[source_kind(source)](source, config):
            named = row if row.get("source") else row | {"source": name}
            try:
                pair = parse_row(named)
            except BadRow as error:
                yield Read(str(named["source"]), place, None, str(error))
            else:
                yield Read(pair.source, place, pair)


def load_preference_data(config: DataConfig, seed: int, curation: CurationConfig | None = None) -> PreferenceData:
    """The pairs that the config names, curated and split. The ledger has an end for each row that was read.

    Raises UserError for files that are missing or unreadable, missing columns, no usable row, and parts without any.
    """
    curation = curation or CurationConfig()
    if config.source == "embedded":
        return _curate_embedded(embedded.load(config, seed), config, curation, seed)
    where = ", ".join(config.source if isinstance(config.source, list) else [config.source])
    ledger, split = Ledger(), Split(seed, config.heldout_fraction, config.labeler_fraction)
    pairs: list[tuple[Comparison, Side]] = []
    skipped: Counter[str] = Counter()
    for read in read_pairs(config):
        if read.pair is not None:
            pairs.append((read.pair, split.side(read.pair.prompt)))
        elif config.bad_rows == "refuse":
            raise UserError(f"a row cannot be used: {read.reason}", read.place, "correct it, or set data.bad_rows=skip")
        else:
            skipped[read.reason] += 1
            ledger.add(read.source, remove(read.reason))
    if not pairs:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in skipped.items()) or "the data set is empty"
        raise UserError(f"no usable preference pair: {reasons}", where, "give data with prompt, chosen and rejected")
    found = curate(pairs, [], curation, config.max_pairs, seed, ledger)
    check_parts(found.parts, config, where)
    prompts = {side: _prompts_of(found.with_prompts[side]) for side in found.parts}
    return found.as_data(prompts["training"], prompts["heldout"], skipped)


def _curate_embedded(data: PreferenceData, config: DataConfig, curation: CurationConfig, seed: int) -> PreferenceData:
    """The world has all prompts of its users, whether a pair asks them or not."""
    found = curate(*embedded.by_side(data), curation, None, seed, Ledger())
    check_parts(found.parts, config, "the embedded world")
    return found.as_data([p for p in data.prompts if not found.is_removed(p.prompt_id)], data.heldout_prompts, Counter())


def _prompts_of(pairs: list[Comparison]) -> list[PromptRecord]:
    """Each prompt once, in the order in which the prompts first appear."""
    first: dict[str, PromptRecord] = {}
    for pair in pairs:
        first.setdefault(pair.prompt_id, PromptRecord(pair.prompt_id, pair.prompt, pair.source))
    return list(first.values())
