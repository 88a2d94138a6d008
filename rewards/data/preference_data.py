"""The original data: read from its sources row by row, drawn as the config says, and split.

Every row that is left out is counted by its reason. The opening of a pair's prompt decides on which side of the split the pair is, so
dialogues that open alike stay together (`splits.py`). Memory holds at most what `cap` and `max_pairs` let through, and about 100 bytes
for each different prompt; all else goes into files at once (`row_files.py`). Must never train anything.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.data import DataConfig
from configs.errors import UserError
from configs.seeds import derive_seed
from rewards.comparisons import Comparison, Demonstration, PromptRecord
from rewards.data import embedded
from rewards.data.counts import SourceCounts
from rewards.data.drawing import Reservoir
from rewards.data.parts import PreferenceData, check_parts
from rewards.data.reading import ReadRow, read_source
from rewards.data.row_files import RowFile
from rewards.data.sources import Source, find_sources
from rewards.data.splits import Side, Split
from rewards.data.unusable import Unusable

SAID_BEFORE, FOR_THE_LABELER, HELD_OUT = "a prompt that was there before", "a prompt of the labeler's part", "a prompt that is held out"


def load_preference_data(config: DataConfig, seed: int, folder: Path | None = None) -> PreferenceData:
    """The pairs and prompts that the config names. Raises UserError for what cannot be read, and if there is no usable pair.

    folder: where the rows are kept while the run needs them, on a disk that has room for all of them. None keeps them in memory.
    """
    if config.source == "embedded":
        return embedded.load(config, seed)
    loader = _Loader(config, seed, folder)
    for source in find_sources(config):
        loader.read(source)
    return loader.finish()


class _Loader:
    """Takes row after row, and sorts what it holds into parts."""

    def __init__(self, config: DataConfig, seed: int, folder: Path | None):
        self.config, self.seed = config, seed
        self.split = Split(seed, config.heldout_fraction, config.labeler_fraction)
        self.counts: list[SourceCounts] = []
        self.pairs: dict[Side, Any] = {side: _rows(Comparison, folder) for side in ("training", "heldout", "labeler")}
        self.prompts: dict[Side, Any] = {side: _rows(PromptRecord, folder) for side in ("training", "heldout")}
        self.answers: Any = _rows(Demonstration, folder)
        self.drawn: Reservoir[tuple[SourceCounts, Comparison]] | None = None
        if config.max_pairs:
            self.drawn = Reservoir(config.max_pairs, derive_seed(seed, "max_pairs"))
        self.ties, self.by_source = 0, Counter[str]()
        self._seen: set[int] = set()  # ids of prompts, as numbers, which take the least memory

    def read(self, source: Source) -> None:
        """Read one source to its end."""
        counts = SourceCounts(source)
        self.counts.append(counts)
        capped: Reservoir[ReadRow] | None = None
        if source.config.cap:
            capped = Reservoir(source.config.cap, derive_seed(self.seed, "cap", source.name))
        for row in read_source(source, self.config.normalize):
            if isinstance(row, Unusable):
                counts.leave_out(row, self.config.bad_rows == "refuse")
            elif capped is not None:
                capped.add(row)
            else:
                self._use(row, counts)
        if capped is not None:
            rows = capped.drawn()
            counts.leave_out_beyond_cap(capped.added - len(rows))
            for row in rows:
                self._use(row, counts)

    def finish(self) -> PreferenceData:
        """All parts. Raises UserError if one has nothing."""
        if not any(count.pairs for count in self.counts):
            raise UserError(f"no usable preference pair: {self._why()}", self._where(), "give data with prompt, chosen and rejected")
        if self.drawn is not None:
            for counts, pair in self.drawn.drawn():
                counts.pairs_not_drawn -= 1
                self._sort(pair)
        check_parts(self.pairs, self.config, self._where())
        pairs, prompts = self.pairs, self.prompts
        parts = pairs["training"], pairs["heldout"], prompts["training"], prompts["heldout"], pairs["labeler"]
        return PreferenceData(*parts, self.answers, self.counts, self.ties, self.by_source)

    def _use(self, row: ReadRow, counts: SourceCounts) -> None:
        counts.use(row)
        for record in row.records:
            if isinstance(record, PromptRecord):
                self._ask(record, self.split.side(record.prompt), counts)
            elif isinstance(record, Demonstration):
                self._demonstrate(record, counts)
            elif self.drawn is not None:
                counts.pairs_not_drawn += 1
                self.drawn.add((counts, record), counts.source.config.weight)
            else:
                self._sort(record)

    def _sort(self, pair: Comparison) -> None:
        """Put a pair into its part, and its prompt as well if the run may ask it."""
        side = self.split.side(pair.prompt)
        self.pairs[side].append(replace(pair, heldout=True) if side == "heldout" else pair)
        self.ties += pair.tie
        if side == "training":
            self.by_source[pair.source] += 1
        if side != "labeler":
            self._ask(PromptRecord(pair.prompt_id, pair.prompt, pair.source), side, None)

    def _demonstrate(self, record: Demonstration, counts: SourceCounts) -> None:
        """Keep an answer if its prompt is trained on, and its prompt as any other."""
        side = self.split.side(record.prompt)
        if side == "training":
            self.answers.append(record)
        else:
            counts.answers_left_out[HELD_OUT if side == "heldout" else FOR_THE_LABELER] += 1
        self._ask(PromptRecord(record.prompt_id, record.prompt, record.source), side, counts)

    def _ask(self, prompt: PromptRecord, side: Side, counts: SourceCounts | None) -> None:
        """Put a prompt into its part, unless it is there. counts: of a source of prompts, which says why one is left out."""
        number = int(prompt.prompt_id, 16)
        if side != "labeler" and number not in self._seen:
            self._seen.add(number)
            self.prompts[side].append(prompt)
        elif counts is not None:
            counts.prompts_left_out[FOR_THE_LABELER if side == "labeler" else SAID_BEFORE] += 1

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
