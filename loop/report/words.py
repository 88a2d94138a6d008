"""How a report puts figures into sentences."""

from loop.report.reading import Estimate


def interval(value: Estimate, sign: str = "+") -> str:
    """A value with its 95 % interval."""
    if not value.interval:
        return f"{value.mean:{sign}.2f} (without an interval)"
    low, high = value.interval
    return f"{value.mean:{sign}.2f} (95% interval {low:{sign}.2f} to {high:{sign}.2f})"


def percent_interval(value: Estimate) -> str:
    """A share with its 95 % interval."""
    if not value.interval:
        return f"{value.mean:.0%}"
    low, high = value.interval
    return f"{value.mean:.0%} (95% interval {low:.0%} to {high:.0%})"


def round_name(r: int | None) -> str:
    """The policy of a round; None means the SFT policy."""
    return "the SFT policy" if r is None else f"round {r}"


def sentence(text: str) -> str:
    """The text with a capital letter."""
    return text[:1].upper() + text[1:]
