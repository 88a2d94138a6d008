"""Reads JSON lines that somebody else wrote: label files and original pairs. One reader, so that both are read alike.

The file is UTF-8, with or without a byte order mark, and has one JSON object a line. Only a line feed ends a line: U+2028,
U+2029 and U+0085 are legal inside a JSON string. What Python's `json` would let pass although it is not JSON (NaN), or would
quietly change (a key given twice, 1e999), is refused. Must never skip a line that is not blank.
"""

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import UserError

BLANK = " \t\r\n"
"""What JSON calls whitespace. A line of nothing else is no row."""
MAX_DIGITS = 308
"""Of an integer; a float can have as many. Python refuses more than 4,300 in words that help nobody."""


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line that is not blank; a name that ends in .gz is unpacked.

    Raises UserError with file and line for a line that is not one JSON object, and for a file that cannot be read.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                where = f"{path}, line {number}"
                text = _decode(line, where)
                if text.strip(BLANK):
                    yield number, _parse(text.rstrip(BLANK), number, where)
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"the file cannot be read: {why}", str(path), "check that it is a whole file that you may read") from None


def _decode(line: bytes, where: str) -> str:
    try:
        text = line.decode("utf-8-sig")  # files that were joined have the mark in the middle too
    except UnicodeDecodeError as error:
        byte, at = error.object[error.start], error.start + 1
        raise UserError(f"the line is not UTF-8 text: byte 0x{byte:02x} at position {at}", where, "save the file as UTF-8") from None
    if "\0" in text:
        raise UserError("the line has NUL characters, as UTF-16 text does", where, "save the file as UTF-8")
    return text


def _parse(text: str, number: int, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite, parse_int=_integer)
        if "\\ud" in text.lower():
            json.dumps(row, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        why = f"{error.msg.removesuffix(' at')} at position {error.pos + 1}"
    except UnicodeEncodeError:
        why = "half of a surrogate pair (\\ud800 to \\udfff) is not a character"
    except RecursionError:
        why = "it is nested too deeply"
    except ValueError as error:
        why = str(error)
    else:
        if isinstance(row, dict):
            return row
        raise UserError(f"line {number} is not a JSON object", where, 'write {"name": value, ...}, or remove the line')
    raise UserError(f"line {number} is not JSON: {why}", where, "correct or remove the line")


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
