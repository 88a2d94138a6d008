"""Processes that carry a mark in their environment, and how to end them all, frozen ones too.

A process hands its environment to all that it starts, so the mark finds what Ray has started even after its parent is gone.
"""

import os
import time
from contextlib import suppress

import psutil

MARK = "LOOP_FLEET"
"""The environment variable that holds the mark."""
KILL_SECONDS = 10.0
"""How long to go on killing: a process that waits for a dead disk does not die before the disk answers."""


def marked(mark: str) -> list[psutil.Process]:
    """The living processes of this machine that carry `mark`, but for this one."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _carries(process, mark)]


def kill_marked(mark: str) -> None:
    """SIGKILL to all that carry `mark`, but for this process, until none is left."""
    deadline = time.monotonic() + KILL_SECONDS
    while (left := marked(mark)) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(0.02)


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):  # it is gone, or another user's
        return False
