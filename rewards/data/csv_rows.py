"""Reads a CSV file of pairs. Every cell is taken as text, just as it is: an answer may be NA, None or 007.

Readers that guess types would turn such answers into nothing or into a number. Only `tie` and the two scores, which are not texts, are read
as a truth value and as numbers.
"""

import csv
import io
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs.errors import UserError
from rewards.data.json_lines import opened

MAY_BE_EMPTY = ("prompt", "source", "tie", "score_chosen", "score_rejected")
TIES = {"true": True, "false": False}


def read_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("line N", {column: cell}) for each row. N is the line on which the row ends. Raises UserError with file and line."""
    csv.field_size_limit(sys.maxsize)  # Python's own limit is 128 KiB
    place = "line 1"
    try:
        with opened(path) as file:
            reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
            columns = reader.fieldnames or []
            if repeated := [name for name in columns if columns.count(name) > 1]:
                raise UserError(f"the column {repeated[0]!r} is there twice", f"{path}, {place}", "rename one of them")
            for row in reader:
                place = f"line {reader.line_num}"
                if len(columns) != len(row) or None in row.values():
                    many = "more" if None in row else "fewer"
                    raise UserError(f"{place} has {many} cells than there are columns", f"{path}, {place}", "quote cells that hold commas")
                yield place, row | {name: _read(name, row[name]) for name in MAY_BE_EMPTY if name in row}
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(f"this is not UTF-8 text: byte 0x{byte:02x} after {place}", str(path), "save the file as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"the file is not CSV: {error}", f"{path}, after {place}", "correct the file") from None


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
