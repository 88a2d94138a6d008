"""What a running stage tells the outside while it works."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Report(Protocol):
    """Takes how far the work is: `done` of `total` steps, the latest metrics and a few texts, where there are any.

    Whoever calls it may do so as often as it likes: the receiver decides what is kept. Nothing that a run computes depends on it.
    """

    def __call__(self, done: int, total: int, metrics: Mapping[str, float] | None = None, texts: Sequence[str] = ()) -> None: ...


def report_nothing(done: int, total: int, metrics: Mapping[str, float] | None = None, texts: Sequence[str] = ()) -> None:
    """A Report that nobody reads."""
