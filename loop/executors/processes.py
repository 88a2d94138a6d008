"""Finds and kills all processes that carry a mark in their environment, frozen ones too.

A process passes its environment on to every process that it starts. So the mark finds what Ray has started, even where the parent
is dead. Must never import torch or Ray.
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
"""How long to keep trying: a process that waits for a dead disk does not die before the disk answers."""


def in_environment(mark: str) -> dict[str, str]:
    """The environment variables of a process that is to carry the mark.

    SPT_NOENV: Ray names its processes with setproctitle, which would otherwise write long names over the environment.
    """
    return {MARK: mark, "SPT_NOENV": "1"}


def marked(mark: str) -> list[psutil.Process]:
    """The running processes of this machine that carry `mark`, without this one."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _carries(process, mark)]


def kill_marked(mark: str) -> None:
    """Send SIGKILL to all processes that carry `mark`, without this one, until none is left."""
    deadline = time.monotonic() + KILL_SECONDS
    while (left := marked(mark)) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(0.02)


def kill_marked_from_outside(mark: str) -> None:
    """Have another process do the same, which also kills this one if it carries the mark. Returns at once.

    A process that has imported Ray may be ended by Ray as soon as another process of Ray dies, before it has killed the rest.
    """
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    command = [sys.executable, "-P", "-m", "loop.executors.processes", mark]
    subprocess.Popen(command, env=environment, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):  # it has ended, or it belongs to another user
        return False


if __name__ == "__main__":
    kill_marked(sys.argv[1])
