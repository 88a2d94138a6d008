"""Reads JSON that somebody else wrote: label files and original pairs are read by the same code.

The file is UTF-8, with or without a byte order mark. JSON lines have one object on each line. Only a line feed ends a line, because
U+2028, U+2029 and U+0085 are legal inside a JSON string. Python's `json` accepts NaN, which is not JSON, and quietly changes a key that is
given twice and numbers such as 1e999. All of these are refused here. Must never skip a line that is not blank, and never hold more of a
file in memory than a row and a few megabytes.
"""

import codecs
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from configs.errors import UserError
from rewards.data.unpacking import opened
from rewards.data.unusable import BadLine

BLANK = " \t\r\n"
"""What JSON calls white space. A line that holds nothing else is not a row."""
MAX_DIGITS = 308
"""The most digits of an integer: as many as a float can have. Python itself refuses more than 4,300, with an unhelpful message."""
CHUNK = 1 << 20
"""How many bytes of an array are read at a time."""
MAX_ELEMENT = 64 << 20
"""The most characters of one element of an array. Without a limit, an array that is not closed would be read into memory whole."""


Row = dict[str, Any]


def read_json_lines(path: Path) -> Iterator[tuple[str, Row]]:
    """Yields ("line N", object) for each line that is not blank. A packed file is unpacked.

    Raises UserError with file and line if a line is not one JSON object, or if the file cannot be read.
    """
    return strictly(path, try_json_lines(path))


def strictly(path: Path, rows: Iterable[tuple[str, Row | BadLine]]) -> Iterator[tuple[str, Row]]:
    """The rows of a file of which every line has to be right. Raises UserError with file and line for the first one that is not."""
    for place, row in rows:
        if isinstance(row, BadLine):
            raise UserError(row.what, f"{path}, {place}", row.to_do)
        yield place, row


def try_json_lines(path: Path) -> Iterator[tuple[str, Row | BadLine]]:
    """Yields ("line N", object or BadLine) for each line that is not blank. Raises UserError if the file cannot be read."""
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            place = f"line {number}"
            try:
                row = parse_line(line, place)
            except BadLine as bad:
                yield place, bad
                continue
            if row is not None:
                yield place, row


def parse_line(line: bytes, place: str) -> Row | None:
    """The object on one line; None if the line is blank. Raises BadLine if it is not one JSON object."""
    text = decode(line)
    return _row(text, place) if text.strip(BLANK) else None


def try_json(path: Path) -> Iterator[tuple[str, Row | BadLine]]:
    """Yields ("row N", object) for each element of an array. Files of JSON lines are read too, because many of them are named .json.

    Raises UserError if the file cannot be read, or if the array is not JSON: after a mistake, nobody knows where the next element begins.
    """
    with opened(path) as file:
        beginning = data = file.read(CHUNK)
        while data and not _first_byte(beginning):
            beginning += (data := file.read(CHUNK))
        if _first_byte(beginning) == b"[":
            yield from _Array(path, file, beginning).rows()
            return
    yield from try_json_lines(path)


def _first_byte(data: bytes) -> bytes:
    """The first byte that is neither blank nor a byte order mark; none if there is no other."""
    return data.removeprefix(codecs.BOM_UTF8).lstrip(BLANK.encode())[:1]


class _Array:
    """The elements of an array in a file, of which only the element at hand is in memory."""

    def __init__(self, path: Path, file: IO[bytes], beginning: bytes):
        self._path, self._file = path, file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._ended = "", 0, False
        self._lines, self._column = 0, 0  # of the file, before the text
        self._add(beginning)

    def rows(self) -> Iterator[tuple[str, Row]]:
        self._skip("[")
        number = 0
        while self._next() != "]":
            if number:
                self._skip(",", "Expecting ',' delimiter")
                self._next()
            number += 1
            yield f"row {number}", self._element(number)
        self._skip("]")
        if self._next():
            raise self._not_json("Extra data", self._at)

    def _element(self, number: int) -> Row:
        if self._text[self._at : self._at + 1] not in ("{", ""):
            raise UserError(f"row {number} is not a JSON object", f"{self._path}, row {number}", 'write {"name": value, ...} for each row')
        while True:
            try:
                row, end = _DECODER.raw_decode(self._text, self._at)
                _check_characters(self._text[self._at : end], row)
            except json.JSONDecodeError as error:
                if not self._ended and len(self._text) - self._at < MAX_ELEMENT:
                    self._more()
                    continue
                raise self._not_json(error.msg.removesuffix(" at"), error.pos) from None
            except (ValueError, RecursionError) as error:
                raise self._error(_reason(error)) from None
            self._at = end
            return row

    def _next(self) -> str:
        """The next character that is not blank; none at the end of the file."""
        while True:
            while self._text[self._at : self._at + 1] in BLANK and self._at < len(self._text):
                self._at += 1
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more()

    def _skip(self, character: str, otherwise: str = "Expecting value") -> None:
        if self._next() != character:
            raise self._not_json(otherwise, self._at)
        self._at += 1

    def _more(self) -> None:
        """Read on, twice as much as before if nothing of it was used yet, and forget what was used."""
        used = self._text[: self._at]
        self._lines += used.count("\n")
        self._column = len(used) - used.rfind("\n") - 1 if "\n" in used else self._column + len(used)
        self._text, self._at = self._text[self._at :], 0
        self._add(self._file.read(max(CHUNK, len(self._text))))

    def _add(self, data: bytes) -> None:
        self._ended = not data
        try:
            self._text += self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            what = (
                f"this is not UTF-8 text: byte 0x{error.object[error.start]:02x} after line {self._lines + self._text.count(chr(10)) + 1}"
            )
            raise UserError(what, str(self._path), "save the file as UTF-8") from None
        if "\0" in self._text:
            raise UserError("the text has NUL characters, as UTF-16 text does", str(self._path), "save the file as UTF-8")

    def _not_json(self, why: str, at: int) -> UserError:
        before = self._text[:at]
        line = self._lines + before.count("\n") + 1
        column = at - before.rfind("\n") if "\n" in before else self._column + at + 1
        return self._error(f"{why} at line {line}, position {column}")

    def _error(self, why: str) -> UserError:
        return UserError(f"the file is not JSON: {why}", str(self._path), "correct the file")


def decode(data: bytes) -> str:
    """UTF-8 as text. Raises BadLine if it is none."""
    try:
        text = data.decode("utf-8-sig")  # a file that was joined from several has the mark in the middle too
    except UnicodeDecodeError as error:
        byte, at = error.object[error.start], error.start + 1
        what = f"this is not UTF-8 text: byte 0x{byte:02x} at position {at}"
        raise BadLine("not UTF-8 text", what, "save the file as UTF-8", data.decode("utf-8", "replace")) from None
    if "\0" in text:
        raise BadLine("NUL characters", "the text has NUL characters, as UTF-16 text does", "save the file as UTF-8", text)
    return text


def _row(text: str, place: str) -> Row:
    try:
        row = _value(text.rstrip(BLANK))
    except ValueError as error:
        raise BadLine("not JSON", f"{place} is not JSON: {error}", "correct or remove the line", text) from None
    if not isinstance(row, dict):
        raise BadLine("not a JSON object", f"{place} is not a JSON object", 'write {"name": value, ...}, or remove the line', text)
    return row


def _value(text: str) -> Any:
    """One JSON value. Raises ValueError with the reason if the text is not JSON."""
    try:
        value = _DECODER.decode(text)
        _check_characters(text, value)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        raise ValueError(f"{error.msg.removesuffix(' at')} at {line}position {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(_reason(error)) from None
    return value


def _check_characters(text: str, value: Any) -> None:
    """Raises UnicodeEncodeError for half of a surrogate pair."""
    if "\\ud" in text or "\\uD" in text:
        json.dumps(value, ensure_ascii=False).encode()


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "half of a surrogate pair (\\ud800 to \\udfff) is not a character"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


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


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite, parse_int=_integer)
