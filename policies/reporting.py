"""What a running stage tells the outside while it works."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Report(Protocol):
    """Receives the progress of a stage: `done` of `total` steps, the latest metrics, a few texts, and what the user should know now.

    A stage may call it as often as it likes, because the receiver decides what to keep. No result depends on it.
    """

    def __call__(
        self, done: int, total: int, metrics: Mapping[str, float] | None = None, texts: Sequence[str] = (), warning: str = ""
    ) -> None: ...


def report_nothing(done: int, total: int, metrics: Mapping[str, float] | None = None, texts: Sequence[str] = (), warning: str = "") -> None:
    """A Report that keeps nothing."""
