"""Reads a CSV file of pairs. Every cell is taken as text, just as it is: an answer may be NA, None or 007.

Readers that guess types would turn such answers into nothing or into a number. Only `tie` and the two scores, which are not texts, are read
as a truth value and as numbers.
"""

import csv
import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs.errors import UserError
from rewards.data.unpacking import opened
from rewards.data.unusable import BadLine

MAY_BE_EMPTY = ("prompt", "source", "tie", "score_chosen", "score_rejected")
TIES = {"true": True, "false": False}


def try_csv(path: Path, names: Mapping[str, str] | None = None) -> Iterator[tuple[str, dict[str, Any] | BadLine]]:
    """Yields ("line N", {column: cell}) for each row, or a BadLine if its cells are not as many as the columns.

    N is the line on which the row ends. names: the format's names of columns -> the file's, where they differ. Raises UserError with file
    and line if the file is not CSV, because nobody knows where the next row begins after a wrong quote.
    """
    csv.field_size_limit(sys.maxsize)  # Python's own limit is 128 KiB
    place, not_texts = "line 1", {(names or {}).get(name, name): name for name in MAY_BE_EMPTY}
    try:
        with opened(path) as file:
            reader = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
            columns = next(reader, [])
            if repeated := [name for name in columns if columns.count(name) > 1]:
                raise UserError(f"the column {repeated[0]!r} is there twice", f"{path}, {place}", "rename one of them")
            for cells in reader:
                if not cells:  # a blank line
                    continue
                place = f"line {reader.line_num}"
                yield place, _row(columns, cells, place, not_texts)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(f"this is not UTF-8 text: byte 0x{byte:02x} after {place}", str(path), "save the file as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"the file is not CSV: {error}", f"{path}, after {place}", "correct the file") from None


def _row(columns: list[str], cells: list[str], place: str, not_texts: Mapping[str, str]) -> dict[str, Any] | BadLine:
    """not_texts: the columns of MAY_BE_EMPTY by the file's names for them."""
    if len(columns) != len(cells):
        many = "more" if len(cells) > len(columns) else "fewer"
        what = f"{place} has {many} cells than there are columns"
        return BadLine(f"{many} cells than columns", what, "quote cells that hold commas", ",".join(cells))
    row: dict[str, Any] = dict(zip(columns, cells, strict=True))
    return row | {column: _read(name, row[column]) for column, name in not_texts.items() if column in row}


def _read(column: str, cell: str) -> Any:
    """The value of a cell; None if it is empty. Text that does not fit the column stays text, and `parse_row` refuses it."""
    if not cell:
        return None
    if column == "tie":
        return TIES.get(cell.lower(), cell)
    if column.startswith("score_"):
        with suppress(ValueError):
            return float(cell)
    return cell
