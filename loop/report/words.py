"""How a report puts figures into sentences."""

from loop.store.estimates import Estimate


def interval(value: Estimate) -> str:
    """A difference with its 95 % interval. Says so where it has none."""
    return value.with_interval("+.2f") + ("" if value.interval else " (without an interval)")


def round_name(r: int | None) -> str:
    """The policy of a round; None means the SFT policy."""
    return "the SFT policy" if r is None else f"round {r}"


def sentence(text: str) -> str:
    """The text with a capital letter."""
    return text[:1].upper() + text[1:]
