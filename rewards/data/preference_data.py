"""The original preference pairs: read from `data.source`, checked row by row, and split.

Every row that is left out is counted by its reason. The opening of a pair's prompt decides on which side of the split the pair is, so
dialogues that open alike stay together (`splits.py`). Must never train anything.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from configs.errors import UserError
from configs.schema import DataConfig
from configs.seeds import derive_seed, draw
from rewards.comparisons import Comparison, PromptRecord
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


def load_preference_data(config: DataConfig, seed: int) -> PreferenceData:
    """The pairs that the config names. Raises UserError for files that are missing or unreadable, missing columns, or no usable row."""
    if config.source == "embedded":
        return embedded.load(config, seed)
    sources = config.source if isinstance(config.source, list) else [config.source]
    check_sources(sources, "data.source")
    where = ", ".join(sources)
    skipped: Counter[str] = Counter()
    pairs = []
    for place, row in [row for source in sources for row in SOURCES[source_kind(source)](source, config)]:
        try:
            pairs.append(parse_row(row))
        except BadRow as error:
            if config.bad_rows == "refuse":
                raise UserError(f"a row cannot be used: {error}", place, "correct it, or set data.bad_rows=skip") from None
            skipped[str(error)] += 1
    if not pairs:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in skipped.items()) or "the data set is empty"
        raise UserError(f"no usable preference pair: {reasons}", where, "give data with prompt, chosen and rejected")
    if config.max_pairs:
        pairs = draw(pairs, config.max_pairs, derive_seed(seed, "max_pairs"))
    return _split(pairs, config, seed, skipped, where)


def _split(pairs: list[Comparison], config: DataConfig, seed: int, skipped: Counter[str], where: str) -> PreferenceData:
    """Three parts, by the openings of the prompts: training, held-out, and the part that only the labeler may see."""
    split = Split(seed, config.heldout_fraction, config.labeler_fraction)
    parts: dict[Side, list[Comparison]] = {"training": [], "heldout": [], "labeler": []}
    for pair in pairs:
        side = split.side(pair.prompt)
        parts[side].append(replace(pair, heldout=side == "heldout"))
    check_parts(parts, config, where)
    training, heldout = parts["training"], parts["heldout"]
    return PreferenceData(training, heldout, _prompts_of(training), _prompts_of(heldout), parts["labeler"], skipped)


def _prompts_of(pairs: list[Comparison]) -> list[PromptRecord]:
    """Each prompt once, in the order in which the prompts first appear."""
    first: dict[str, PromptRecord] = {}
    for pair in pairs:
        first.setdefault(pair.prompt_id, PromptRecord(pair.prompt_id, pair.prompt, pair.source))
    return list(first.values())
