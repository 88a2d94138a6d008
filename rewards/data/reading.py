"""Reads a source row by row: what each row holds, or why it cannot be used. Nothing is lost, and no file is held in memory.

    for row in read_source(source, is_normalized=True):
        if isinstance(row, Unusable): ...    # reason, place, excerpt
        else: ...                            # row.records: what it holds; row.left_out: parts that cannot be used

Each row of a source comes out once, as a ReadRow or as an Unusable. Rows are normalized here (`normalizing.py`), if the config says so,
before anything is compared. Must never draw or split: `preference_data.py` does.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from configs import user_functions
from configs.data import Kind
from configs.errors import UserError
from rewards.comparisons import Comparison, Demonstration, Prompt, PromptRecord
from rewards.data import tables
from rewards.data.csv_rows import try_csv
from rewards.data.formats import FORMATS, Format, Found, find_format
from rewards.data.json_lines import try_json, try_json_lines
from rewards.data.normalizing import normalize, normalize_prompt
from rewards.data.rows import Pair, Question, Row, check
from rewards.data.sources import Source
from rewards.data.splits import content_id
from rewards.data.unpacking import file_kind
from rewards.data.unusable import BadLine, BadRow, Unusable, excerpt

READERS = {
    "jsonl": try_json_lines,
    "json": try_json,
    "csv": try_csv,
    "parquet": tables.read_parquet,
    "arrow": tables.read_arrow,
}
"""Kinds of files -> what reads one. `datasets` would guess types in JSON and CSV, and turn the answers NA and 007 into nothing and 7."""
LOOKED_AT = 100
"""How many rows are looked at to tell the format of a source."""
WITH_ANSWERS = ("answers", "messages", "sharegpt")
"""The formats that may have one answer to a prompt."""
GIVEN_UP_AT = 10_000
"""After how many rows that cannot be read at all a source is refused."""

Held = Comparison | PromptRecord | Demonstration
"""What a row of a source of pairs, of prompts, or of answers holds."""
RawRows = Iterator[tuple[str, Row | BadLine]]


@dataclass(frozen=True)
class ReadRow:
    """A row that can be used.

    place: where it is. records: what it holds, all of one kind. left_out: reasons for parts of it that cannot be used.
    changed: what was normalized, in texts by kind of change.
    """

    place: str
    records: tuple[Held, ...]
    left_out: tuple[str, ...] = ()
    changed: Mapping[str, int] = field(default_factory=dict)


def read_source(source: Source, is_normalized: bool) -> Iterator[ReadRow | Unusable]:
    """Each row of one source, in order. Raises UserError if it cannot be read, or if its format cannot be told."""
    rows = _renamed(source, _raw_rows(source))
    beginning, looked_at = [], []
    for place, row in rows:
        beginning.append((place, row))
        if not isinstance(row, BadLine):
            looked_at.append(row)
        if len(looked_at) == LOOKED_AT or len(beginning) == GIVEN_UP_AT:
            break
    if not beginning:
        raise UserError("the data set is empty", source.config.path, "give data with prompt, chosen and rejected")
    if not looked_at:
        unread = [_unusable(place, row, row) for place, row in beginning if isinstance(row, BadLine)]
        if len(unread) == GIVEN_UP_AT:
            what = f"none of the first {GIVEN_UP_AT} rows can be read; the first one: {unread[0].what}"
            raise UserError(what, unread[0].place, "correct the file")
        yield from unread
        return
    format, kind = _format_of(source, looked_at)
    for place, row in chain(beginning, rows):
        if isinstance(row, BadLine):
            yield _unusable(place, row, row)
        else:
            yield _read(place, row, source.name, format, kind, is_normalized)


def _read(place: str, row: Row, source: str, format: Format, kind: Kind, is_normalized: bool) -> ReadRow | Unusable:
    """What one row holds, or why it cannot be used."""
    changed: Counter[str] = Counter()
    part = row.get("source")
    name = f"{source}/{part}" if isinstance(part, str) and part and part != source else source
    records: list[Held] = []
    left_out: list[str] = []
    for found in _found(format, row):
        try:
            if isinstance(found, BadRow):
                raise found
            records.append(_record(_normalized(found, changed) if is_normalized else found, name, kind))
        except BadRow as bad:
            left_out.append(str(bad))
    if not records:
        return _unusable(place, row, BadRow(left_out[0] if left_out else "there is nothing to compare in it"))
    if kind == "prompts":
        records = list({record.prompt_id: record for record in records}.values())
    return ReadRow(place, tuple(records), tuple(left_out), changed)


def _found(format: Format, row: Row) -> Iterator[Found]:
    try:
        yield from format.parse(row)
    except BadRow as bad:
        yield bad


def _normalized(found: Pair | Question, changed: Counter[str]) -> Pair | Question:
    prompt = normalize_prompt(found.prompt, changed)
    if isinstance(found, Question):
        return Question(prompt, found.answer and normalize(found.answer, changed))
    return found._replace(prompt=prompt, chosen=normalize(found.chosen, changed), rejected=normalize(found.rejected, changed))


def _record(found: Pair | Question, source: str, kind: Kind) -> Held:
    """The record of what was found, once it is checked. Of a pair, a source of prompts takes the prompt."""
    if kind == "pairs":
        if isinstance(found, Question):
            raise BadRow("it has no two answers to compare")
        check(found)
        id, prompt, chosen, rejected = _id(found.prompt), found.prompt, found.chosen, found.rejected
        return Comparison(id, prompt, chosen, rejected, source=source, tie=found.tie, rater=found.rater)
    check(Question(found.prompt))
    if kind == "prompts":
        return PromptRecord(_id(found.prompt), found.prompt, source)
    answer = found.answer if isinstance(found, Question) else None
    if answer is None or not answer.strip():
        raise BadRow("it has no answer" if answer is None else "the answer is empty")
    return Demonstration(_id(found.prompt), found.prompt, answer, source)


def _id(prompt: Prompt) -> str:
    """The id of a prompt. A call of a tool may hold anything that a table or a function has, such as a time."""
    try:
        return content_id(prompt)
    except TypeError:
        raise BadRow("a call of a tool holds something that JSON does not have") from None


def _format_of(source: Source, rows: Iterable[Row]) -> tuple[Format, Kind]:
    """The format and the kind of a source. Raises UserError if they cannot be told, or do not fit together."""
    columns = sorted({name for row in rows for name in row})
    has = f"it has {', '.join(columns)}"
    name = source.config.format if source.config.format != "auto" else find_format(rows)
    if name is None:
        missing = [column for column in ("chosen", "rejected") if column not in columns]
        if len(missing) == 1:
            raise UserError(f"the data lacks the column {missing[0]} ({has})", source.config.path, "rename the column to TRL's name")
        known = "; ".join(f"{name}: {format.columns}" for name, format in FORMATS.items())
        what = f"the format of the data cannot be told by its columns ({has})"
        raise UserError(
            what, source.config.path, f"rename your columns, or map them: columns: {{prompt: {(columns or ['name'])[0]}}}; formats: {known}"
        )
    format = FORMATS[name]
    if source.config.format != "auto" and not any(format.fits(row) for row in rows):
        raise UserError(f"no row has the columns of the format {name}: {format.columns} ({has})", source.config.path, "leave out format")
    kind = source.config.kind or ("pairs" if name == "sharegpt" and {"chosen", "rejected"} <= set(columns) else format.holds)
    if kind == "pairs" and format.holds == "prompts" and name != "sharegpt":
        what = f"{source.name} has no two answers to compare (its format is {name})"
        raise UserError(what, source.config.path, "leave out kind, or set kind: prompts or kind: answers")
    if kind == "answers" and name not in WITH_ANSWERS:
        what = f"{source.name} has no single answers (its format is {name})"
        raise UserError(what, source.config.path, f"leave out kind; single answers are in the formats {', '.join(WITH_ANSWERS)}")
    return format, kind


def _raw_rows(source: Source) -> RawRows:
    """The rows of a source as they are, with their places."""
    config = source.config
    if source.kind == "file":
        for path in source.files:
            kind = str(file_kind(path))
            yield from _placed(path, try_csv(Path(path), config.columns) if kind == "csv" else READERS[kind](Path(path)))
        return
    where = config.path
    if source.kind == "function":
        yield from ((f"{where}, {place}", row) for place, row in _rows_of_function(where))
    elif source.kind == "folder":
        yield from _placed(where, tables.read_saved(Path(where), config.split))
    else:
        yield from _placed(where, tables.read_hub(where, config.config_name, config.split, config.revision))


def _placed(where: str, rows: Iterator[tuple[str, Any]]) -> RawRows:
    """Rows with their whole places. What a library raises while it reads becomes a UserError."""
    while True:
        try:
            place, row = next(rows)
        except StopIteration:
            return
        except UserError:
            raise
        except Exception as error:  # pyarrow and datasets have many kinds of errors, and wrap those of others
            what = f"the data cannot be read: {tables.first_cause(error)}"
            raise UserError(what, where, "check that its content is what its name says") from None
        yield f"{where}, {place}", row


def _rows_of_function(name: str) -> Iterator[tuple[str, Any]]:
    """Rows that a user function yields, named as `module:function` or `file.py:function`. It is called once, without arguments.

    def pairs():
        for question, good, bad in my_database():
            yield {"prompt": question, "chosen": good, "rejected": bad}
    """
    rows, to_do = user_functions.load(name)(), 'yield {"prompt": ..., "chosen": ..., "rejected": ...} for each pair'
    if not isinstance(rows, Iterable):
        raise UserError(f"the function returned no rows but {type(rows).__name__}", name, to_do)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"row {number} is not a dictionary but {type(row).__name__}", name, to_do)
        if not all(isinstance(column, str) for column in row):
            raise UserError(f"row {number} has a column whose name is not text", name, to_do)
        yield f"row {number}", _checked(f"row {number}", row)


def _checked(place: str, row: Row) -> Row | BadLine:
    """A row of a function, unless it holds text that no file could hold: the readers of files refuse such text themselves."""
    try:
        json.dumps(row, ensure_ascii=False, skipkeys=True, default=str).encode()
    except UnicodeEncodeError:
        what = f"{place} has half of a surrogate pair (\\ud800 to \\udfff), which is not a character"
        return BadLine("half of a surrogate pair", what, "yield whole characters", repr(row))
    return row


def _renamed(source: Source, rows: RawRows) -> RawRows:
    """Rows whose columns have the names of the format, as `columns` maps them."""
    names = source.config.columns
    if not names:
        yield from rows
        return
    yours = set(names.values())
    for place, row in rows:
        if isinstance(row, BadLine):
            yield place, row
        else:
            kept = {name: value for name, value in row.items() if name not in yours}
            yield place, kept | {name: row[column] for name, column in names.items() if column in row}


def _unusable(place: str, row: Any, bad: BadRow) -> Unusable:
    if isinstance(bad, BadLine):
        return Unusable(str(bad), place, excerpt(bad.line), bad.what)
    return Unusable(str(bad), place, excerpt(row), f"a row cannot be used: {bad}")
