"""The original data: read from its sources row by row, curated, drawn as the config says, and split.

Every row that is left out is counted by its reason, and each row has one end in the ledger (`rewards/curation`). The opening of a pair's
prompt decides on which side of the split the pair is, so dialogues that open alike stay together (`splits.py`). Memory holds at most what
`cap` lets through, and what curation remembers of each row (`rewards/curation/sketches.py`); all else goes into files at once
(`row_files.py`). A pair is written once, and then its line is copied. Must never train anything.
"""

from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.curation import CurationConfig
from configs.data import DataConfig
from configs.errors import UserError
from rewards.comparisons import Comparison, Demonstration, PromptRecord, prompt_line
from rewards.curation.applying import PARTS, Curator
from rewards.curation.ledger import HELD_OUT, KEEP, PROMPTS, move, remove
from rewards.data import embedded
from rewards.data.counts import SourceCounts, read_counted
from rewards.data.parts import PreferenceData, check_parts
from rewards.data.reading import ReadRow
from rewards.data.row_files import RowFile
from rewards.data.splits import Side, Split


def load_preference_data(
    config: DataConfig, seed: int, curation: CurationConfig | None = None, *, folder: Path | None = None
) -> PreferenceData:
    """The pairs and prompts that the config names. Raises UserError for what cannot be read, and if there is no usable pair.

    folder: where the rows are kept while the run needs them, on a disk that has room for all of them. None keeps them in memory.
    """
    curation = curation or CurationConfig()
    if config.source == "embedded":
        return _curate_embedded(embedded.load(config, seed), config, Curator(curation, None, seed))
    loader = _Loader(config, seed, curation, folder)
    for counts, row in read_counted(config, seed, loader.counts, config.bad_rows == "refuse"):
        if isinstance(row, ReadRow):
            loader.take(row, counts)
    return loader.finish()


def _curate_embedded(data: PreferenceData, config: DataConfig, curator: Curator) -> PreferenceData:
    """The world has all prompts of its users, whether a pair asks them or not."""
    pairs, prompts = embedded.by_side(data)
    for pair, side in pairs:
        curator.add(pair, side)
    for record, side in prompts:
        curator.add_prompt(record, side)
    parts: dict[Side, list[Comparison]] = {"training": [], "heldout": [], "labeler": []}
    for (pair, _), decision in zip(pairs, curator.decide(), strict=True):
        if decision.end in PARTS:
            parts[PARTS[decision.end]].append(pair)
    check_parts(parts, config, "the embedded world")
    return replace(
        data,
        pairs=parts["training"],
        heldout=parts["heldout"],
        labeler_pairs=parts["labeler"],
        prompts=[record for record in data.prompts if not curator.is_near_heldout(record.prompt_id)],
        by_source=curator.by_source,
        ledger=curator.ledger,
        repeated=curator.repeated,
    )


class _Loader:
    """Takes row after row. Once all are there, it has them curated, and sorts what they hold into parts.

    taken: the records that may be used. places: that of each taken pair among all pairs that were read.
    """

    def __init__(self, config: DataConfig, seed: int, curation: CurationConfig, folder: Path | None):
        self.config = config
        self.curator = Curator(curation, config.max_pairs, seed)
        self.split = Split(seed, config.heldout_fraction, config.labeler_fraction)
        self.counts: list[SourceCounts] = []
        self.taken: dict[type, Any] = {kind: _rows(kind, folder) for kind in (Comparison, PromptRecord, Demonstration)}
        self.pairs: dict[Side, Any] = {side: _rows(Comparison, folder) for side in ("training", "heldout", "labeler")}
        self.prompts: dict[Side, Any] = {side: _rows(PromptRecord, folder) for side in ("training", "heldout")}
        self.answers: Any = _rows(Demonstration, folder)
        self.places, self.num_pairs = array("Q"), 0

    def take(self, row: ReadRow, counts: SourceCounts) -> None:
        """Take a row that can be used."""
        for record in row.records:
            if isinstance(record, Comparison):
                self._take_pair(record, counts.source.config.weight)
            else:
                self.taken[type(record)].append(record)
                self.curator.add_prompt(record, self.split.side(record.prompt))

    def _take_pair(self, pair: Comparison, weight: float) -> None:
        may_be_used = self.curator.draws(weight)
        side = self.split.side(pair.prompt) if may_be_used else None
        self.curator.add(pair, side, weight, may_be_used)
        if may_be_used:
            self.places.append(self.num_pairs)
            self.taken[Comparison].append(replace(pair, heldout=True) if side == "heldout" else pair)
        self.num_pairs += 1

    def finish(self) -> PreferenceData:
        """All parts. Raises UserError if one has nothing."""
        if not any(count.pairs for count in self.counts):
            raise UserError(f"no usable preference pair: {self._why()}", self._where(), "give data with prompt, chosen and rejected")
        ledger = self.curator.ledger
        for count in self.counts:
            for reason, number in count.left_out.items():
                ledger.add(count.source.name, remove(reason), number)
        self._sort_pairs()
        for record in self.taken[PromptRecord]:
            self._ask(record)
        for answer in self.taken[Demonstration]:
            self._demonstrate(answer)
        ledger.check()
        check_parts(self.pairs, self.config, self._where())
        pairs, prompts = self.pairs, self.prompts
        parts = pairs["training"], pairs["heldout"], prompts["training"], prompts["heldout"], pairs["labeler"]
        return PreferenceData(*parts, self.answers, self.counts, self.curator.ties, self.curator.by_source, ledger, self.curator.repeated)

    def _sort_pairs(self) -> None:
        """Put each pair into its part, and its prompt as well if it brings one."""
        decided, pairs = self.curator.decide(), self.taken[Comparison]
        source_of = self.curator.sketches.source_of
        for place, pair in zip(self.places, pairs.lines() if isinstance(pairs, RowFile) else pairs, strict=True):
            end, side, brings_prompt = decided[place]
            assert side is not None  # it may be used
            if end in PARTS:
                _add(self.pairs[side], pair)
            if brings_prompt:
                _add(self.prompts[side], _prompt_of(pair, source_of(place)))

    def _ask(self, record: PromptRecord) -> None:
        """Put a prompt without a pair into its part, unless it is there."""
        side = self.split.side(record.prompt)
        if self.curator.end_of_prompt(record, side) in (move(HELD_OUT), move(PROMPTS)):
            self.prompts[side].append(record)

    def _demonstrate(self, record: Demonstration) -> None:
        """Keep an answer if its prompt is trained on, and its prompt as any other."""
        side, prompt = self.split.side(record.prompt), PromptRecord(record.prompt_id, record.prompt, record.source)
        end = self.curator.end_of_answer(record, side)
        if end == KEEP:
            self.answers.append(record)
        if end in (KEEP, move(HELD_OUT)) and self.curator.ask(record.prompt_id):
            self.prompts[side].append(prompt)

    def _where(self) -> str:
        return ", ".join(count.source.config.path for count in self.counts)

    def _why(self) -> str:
        """What there was instead of pairs."""
        prompts = [f"{count.source.name} holds prompts only" for count in self.counts if count.prompts or count.answers]
        reasons = [_in_words(count) for count in self.counts if count.left_out]
        return ", ".join(prompts + reasons) or "the data set is empty"


def _in_words(counts: SourceCounts) -> str:
    """The reasons for leaving rows out, with the first row of each."""
    examples = counts.examples
    return ", ".join(
        f"{count} x {reason}" + (f" (first: {examples[reason].place}: {examples[reason].what})" if reason in examples else "")
        for reason, count in counts.left_out.most_common()
    )


def _rows(kind: type[Any], folder: Path | None) -> Any:
    return RowFile(kind, folder) if folder is not None else []


def _add(rows: Any, record: Comparison | PromptRecord | bytes) -> None:
    """Add a record, or in a file its line."""
    (rows.append_line if isinstance(record, bytes) else rows.append)(record)


def _prompt_of(pair: Comparison | bytes, source: str) -> PromptRecord | bytes:
    """The prompt of a pair, which is from this source; of the line of a pair, the line of its prompt."""
    return prompt_line(pair, source) if isinstance(pair, bytes) else PromptRecord(pair.prompt_id, pair.prompt, pair.source)
