"""Ctrl-C and SIGTERM, which spot machines send: they ask the running stage to save, and end the command.

    first signal     the stage finishes its step, saves and stops; where no stage runs, the command ends at once
    second signal    the command ends without waiting for the stage
    third signal     the process exits, even while Ray is stopping

Must never import torch or Ray.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from configs.errors import Stopped

GRACE_SECONDS = 20.0
"""How long the workers have to finish their step and save after the first signal. Then they are killed."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Whether somebody has asked the command to stop.

    As a context manager it handles the signals, and ignores them afterwards, because the process is about to end. Without that, nobody
    ever asks.
    """

    def __init__(self, say: Callable[[str], None]):
        """say: prints a message."""
        self._say = say
        self._stop_file: Path | None = None
        self._asked_at: float | None = None
        self._leaving = False

    def __enter__(self) -> "StopSignals":
        for number in SIGNALS:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    @property
    def asked(self) -> bool:
        """Whether somebody has asked to stop."""
        return self._asked_at is not None

    @contextmanager
    def stage(self, stop_file: Path) -> Iterator[None]:
        """A stage runs in this block, and saves and stops once `stop_file` exists."""
        stop_file.unlink(missing_ok=True)
        self._stop_file = stop_file
        try:
            yield
        finally:
            self._stop_file = None

    def check_grace(self) -> None:
        """Raises KeyboardInterrupt where the stage has not saved and stopped in time."""
        if self._asked_at is not None and time.monotonic() - self._asked_at > GRACE_SECONDS:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._leaving:
            os._exit(Stopped.exit_code)
        if self._stop_file is None or self.asked:
            self._leaving = True
            raise KeyboardInterrupt
        self._asked_at = time.monotonic()
        self._stop_file.touch()
        self._say("finishing this step and saving; press Ctrl-C again to stop at once")
