"""Rows that cannot be used: why, where, and how they begin. Plain data; imports no ML library."""

from dataclasses import dataclass
from typing import Any

EXCERPT_CHARACTERS = 80


class BadRow(Exception):
    """A row that cannot be used. The text is the reason, under which such rows are counted."""


class BadLine(BadRow):
    """A line of a file that holds no row. The text is the reason. what: all that is known, with positions. to_do: how to correct it."""

    def __init__(self, reason: str, what: str, to_do: str, line: str = ""):
        super().__init__(reason)
        self.what, self.to_do, self.line = what, to_do, line


@dataclass(frozen=True)
class Unusable:
    """A row that cannot be used.

    reason: under which such rows are counted. place: where it is, for example "pairs.jsonl, line 3". excerpt: how the row begins. what:
    the reason with all details.
    """

    reason: str
    place: str
    excerpt: str = ""
    what: str = ""


def excerpt(row: Any) -> str:
    """The beginning of a row, on one line."""
    text = " ".join((row if isinstance(row, str) else repr(row)[: 10 * EXCERPT_CHARACTERS])[: 10 * EXCERPT_CHARACTERS].split())
    return text if len(text) <= EXCERPT_CHARACTERS else text[: EXCERPT_CHARACTERS - 1] + "…"
