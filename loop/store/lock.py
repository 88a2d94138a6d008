"""One process at a time works on a run. The lock belongs to the process, so it is free when the process dies.

Must never import torch or Ray.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from configs.errors import UserError
from loop.store.layout import RunFolder

PATIENCE_SECONDS = 1.0
RETRY_SECONDS = 0.01


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of a run directory. Raises UserError naming the process that holds it."""
    with RunFolder(folder).lock.open("a+") as file:
        try:
            _take(file)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"another process is working on this run (process {file.read().strip()})", str(folder), "wait for it, or stop it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def is_locked(folder: Path) -> bool:
    """Whether a live process is working on the run."""
    try:
        with RunFolder(folder).lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def is_running(pid: str) -> bool:
    """Whether this machine has a process of that number. False where it is not a number."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True


def _take(file: IO[str]) -> None:
    """Lock the file. Raises BlockingIOError where another process keeps the lock.

    `is_locked` holds a shared lock for an instant, so a single refusal does not mean that a process works on the run.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)
