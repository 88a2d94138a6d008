"""Processes that carry a mark in their environment, and how to end them all, frozen ones too.

A process hands its environment to all that it starts, so the mark finds what Ray has started even after its parent is gone.
"""

import os
import subprocess
import sys
import time
from contextlib import suppress

import psutil

MARK = "LOOP_FLEET"
"""The environment variable that holds the mark."""
KILL_SECONDS = 10.0
"""How long to go on killing: a process that waits for a dead disk does not die before the disk answers."""


def in_environment(mark: str) -> dict[str, str]:
    """What a process to be marked is given. Ray names its processes by setproctitle, which would write long names over the environment."""
    return {MARK: mark, "SPT_NOENV": "1"}


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


def kill_marked_from_outside(mark: str) -> None:
    """The same by a process of its own, this one included where it carries the mark. Returns at once.

    A process that has Ray in it may be ended by Ray as soon as another of Ray's dies, before it has killed the rest.
    """
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    command = [sys.executable, "-m", "loop.executors.processes", mark]
    subprocess.Popen(command, env=environment, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):  # it is gone, or another user's
        return False


if __name__ == "__main__":
    kill_marked(sys.argv[1])
