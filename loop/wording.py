"""What commands, reports and model cards share: the names of rounds in sentences, and tables. Must never import torch or Ray."""

from typing import NamedTuple


class Table(NamedTuple):
    """The first column is text, and the others are numbers."""

    title: str
    headers: list[str]
    rows: list[list[str]]


def round_name(round_number: int | None) -> str:
    """The policy of a round in a sentence. None means the SFT policy."""
    return "the SFT policy" if round_number is None else f"round {round_number}"


def sentence(text: str) -> str:
    """The text with a capital letter."""
    return text[:1].upper() + text[1:]
