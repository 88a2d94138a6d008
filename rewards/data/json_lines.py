"""Reads JSON that somebody else wrote: label files and original pairs are read by the same code.

The file is UTF-8, with or without a byte order mark. JSON lines have one object on each line. Only a line feed ends a line, because
U+2028, U+2029 and U+0085 are legal inside a JSON string. Python's `json` accepts NaN, which is not JSON, and quietly changes a key that is
given twice and numbers such as 1e999. All of these are refused here. Must never skip a line that is not blank.
"""

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from configs.errors import UserError

BLANK = " \t\r\n"
"""What JSON calls white space. A line that holds nothing else is not a row."""
MAX_DIGITS = 308
"""The most digits of an integer: as many as a float can have. Python itself refuses more than 4,300, with an unhelpful message."""


Row = dict[str, Any]


def read_json_lines(path: Path) -> Iterator[tuple[str, Row]]:
    """Yields ("line N", object) for each line that is not blank. A file whose name ends in .gz is unpacked.

    Raises UserError with file and line if a line is not one JSON object, or if the file cannot be read.
    """
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if (row := read_line(line, f"line {number}", path)) is not None:
                yield f"line {number}", row


def read_line(line: bytes, place: str, path: Path) -> Row | None:
    """The object on one line; None if the line is blank. Raises UserError with file and place if it is not one JSON object."""
    text = decode(line, f"{path}, {place}")
    return _row(text, place, path) if text.strip(BLANK) else None


def read_json(path: Path) -> Iterator[tuple[str, Row]]:
    """Yields ("row N", object) for each element of an array. Files of JSON lines are read too, because many of them are named .json.

    Raises UserError as `read_json_lines` does.
    """
    with opened(path) as file:
        text = decode(file.read(), str(path))
    if not text.lstrip(BLANK).startswith("["):
        yield from read_json_lines(path)
        return
    try:
        rows = _value(text)
    except ValueError as error:
        raise UserError(f"the file is not JSON: {error}", str(path), "correct the file") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"row {number} is not a JSON object", f"{path}, row {number}", 'write {"name": value, ...} for each row')
        yield f"row {number}", row


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, unpacked if its name ends in .gz. Raises UserError if it cannot be opened or read to its end."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"the file cannot be read: {why}", str(path), "check that it is a whole file that you may read") from None


def decode(data: bytes, where: str) -> str:
    """UTF-8 as text. Raises UserError with `where` if it is none."""
    try:
        text = data.decode("utf-8-sig")  # a file that was joined from several has the mark in the middle too
    except UnicodeDecodeError as error:
        byte, at = error.object[error.start], error.start + 1
        raise UserError(f"this is not UTF-8 text: byte 0x{byte:02x} at position {at}", where, "save the file as UTF-8") from None
    if "\0" in text:
        raise UserError("the text has NUL characters, as UTF-16 text does", where, "save the file as UTF-8")
    return text


def _row(text: str, place: str, path: Path) -> Row:
    try:
        row = _value(text.rstrip(BLANK))
    except ValueError as error:
        raise UserError(f"{place} is not JSON: {error}", f"{path}, {place}", "correct or remove the line") from None
    if not isinstance(row, dict):
        raise UserError(f"{place} is not a JSON object", f"{path}, {place}", 'write {"name": value, ...}, or remove the line')
    return row


def _value(text: str) -> Any:
    """One JSON value. Raises ValueError with the reason if the text is not JSON."""
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite, parse_int=_integer)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        raise ValueError(f"{error.msg.removesuffix(' at')} at {line}position {error.colno}") from None
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair (\\ud800 to \\udfff) is not a character") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError("a number is too large")
    return number


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("a number is too large")
    return int(text)
