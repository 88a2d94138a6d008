"""How many rows of a source were read, used and left out, and why. Plain data; imports no ML library."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from configs.data import DataConfig
from configs.errors import UserError
from configs.seeds import derive_seed
from rewards.comparisons import Comparison, PromptRecord
from rewards.data.drawing import Reservoir
from rewards.data.reading import ReadRow, read_source
from rewards.data.sources import Source, find_sources
from rewards.data.unusable import Unusable

BEYOND_CAP = "beyond the source's cap"


@dataclass
class SourceCounts:
    """The account of one source. Every row that was read is used, or left out for one reason: `rows` == `used` + what is in `left_out`.

    examples: the first row of each reason. left_out_parts: parts of used rows, as a deleted answer in a tree. pairs, prompts, answers: what
    the used rows hold; the ledger says what becomes of each (`rewards/curation/ledger.py`). changed: texts that were normalized, by what
    was changed in them.
    """

    source: Source
    rows: int = 0
    used: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Unusable] = field(default_factory=dict)
    left_out_parts: Counter[str] = field(default_factory=Counter)
    pairs: int = 0
    prompts: int = 0
    answers: int = 0
    changed: Counter[str] = field(default_factory=Counter)

    def leave_out(self, row: Unusable, is_refused: bool) -> None:
        """Count a row that cannot be used. Raises UserError if such rows are refused."""
        if is_refused:
            raise UserError(row.what, row.place, "correct it, or set data.bad_rows=skip")
        self.rows += 1
        self.left_out[row.reason] += 1
        self.examples.setdefault(row.reason, row)

    def use(self, row: ReadRow) -> None:
        """Count a row that is used."""
        self.rows += 1
        self.used += 1
        if row.left_out or row.changed:
            self.left_out_parts.update(row.left_out)
            self.changed.update(row.changed)
        number, one = len(row.records), row.records[0]
        if isinstance(one, Comparison):
            self.pairs += number
        elif isinstance(one, PromptRecord):
            self.prompts += number
        else:
            self.answers += number

    def leave_out_beyond_cap(self, count: int) -> None:
        """Count the usable rows that were not drawn."""
        if count:
            self.rows += count
            self.left_out[BEYOND_CAP] += count

    def as_json(self) -> dict[str, Any]:
        """The account as plain data, with the origin of the source."""
        config = self.source.config
        examples = {reason: {"place": row.place, "excerpt": row.excerpt, "what": row.what} for reason, row in self.examples.items()}
        return {
            "name": self.source.name,
            "path": config.path,
            "revision": config.revision,
            "licence": config.licence,
            "rows": self.rows,
            "used": self.used,
            "left_out": dict(self.left_out),
            "left_out_parts": dict(self.left_out_parts),
            "examples": examples,
            "pairs": self.pairs,
            "prompts": self.prompts,
            "answers": self.answers,
            "changed": dict(self.changed),
        }


def read_counted(
    config: DataConfig, seed: int, accounts: list[SourceCounts], is_refused: bool
) -> Iterator[tuple[SourceCounts, ReadRow | Unusable]]:
    """Each row of each source, in order, with the account of its source, in which it is counted already.

    Of a source with a `cap`, the rows that are drawn come at the source's end. accounts: gets the account of each source. Raises UserError
    for a source that cannot be read, and for a row that cannot be used if such rows are refused.
    """
    for source in find_sources(config):
        counts = SourceCounts(source)
        accounts.append(counts)
        capped: Reservoir[ReadRow] | None = None
        if source.config.cap:
            capped = Reservoir(source.config.cap, derive_seed(seed, "cap", source.name))
        for row in read_source(source, config.normalize):
            if isinstance(row, Unusable):
                counts.leave_out(row, is_refused)
                yield counts, row
            elif capped is not None:
                capped.add(row)
            else:
                counts.use(row)
                yield counts, row
        if capped is not None:
            rows = capped.drawn()
            counts.leave_out_beyond_cap(capped.added - len(rows))
            for row in rows:
                counts.use(row)
                yield counts, row
