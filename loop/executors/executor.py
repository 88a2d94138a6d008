"""The protocol between the driver and whatever runs its stages. `fleet.py` runs them on Ray, `in_process.py` in this process.

An executor belongs to whoever makes it, not to a run: several drivers may use one, one after the other, and whoever made it stops
it at the end. Must never import torch or Ray.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

OnWait = Callable[[], None]
QUIET_LIBRARIES = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
"""Environment variables that keep the libraries of a worker from printing."""
SPIN_COUNT = 3000
"""How often a thread of GNU OpenMP looks for work before it sleeps. See `thread_variables`."""


def thread_variables(threads: int) -> dict[str, str]:
    """The environment of a process whose tensor operations use `threads` threads. It must be set before torch is imported.

    Torch's threads wait for each other at the end of each operation. By default they wait in a loop that does nothing, for some
    milliseconds. On a machine that does other work as well, the thread that they wait for may need this processor, and then an update
    takes up to fifteen times as long. So they go to sleep much sooner (docs/performance.md has the figures). A user's own choice
    stays: this sets nothing about waiting where OMP_WAIT_POLICY or GOMP_SPINCOUNT is set.
    """
    chosen = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ)
    return {"OMP_NUM_THREADS": str(threads)} | ({} if chosen else {"GOMP_SPINCOUNT": str(SPIN_COUNT)})


def child_environment(**variables: str) -> dict[str, str]:
    """The environment of a child process that imports this project, wherever the user's own folder is. variables: what it has besides."""
    path = (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))} | variables


class StageRequest(TypedDict):
    """One stage to be made, as plain data that can cross a pipe."""

    stage: str
    round: int | None
    config: dict[str, Any]
    """Every setting of the run."""
    reads: tuple[str, ...]
    """The settings that the stage may see (configs/views.py)."""
    functions: dict[str, str]
    """The user's functions that the stage calls, with the hashes of their files (functions.py)."""
    inputs: dict[str, Any]
    """Name -> the path of a committed directory, or a list of paths."""
    work: str
    """The stage's work directory (store/layout.py: StageWork)."""
    output: str
    """The payload directory, which is empty."""


@dataclass(frozen=True)
class Startup:
    """What `Executor.start` has started: the seconds that each part took, and addresses where there is something to look at.

    metrics: what Prometheus reads.
    """

    seconds: dict[str, float]
    dashboard: str | None = None
    metrics: str | None = None


class Executor(Protocol):
    """Runs stages. startup: what the last start from nothing has started; None before that."""

    startup: Startup | None

    def start(self) -> Startup | None:
        """Get ready to run stages. Called before every stage; does nothing where everything is ready.

        Returns None unless everything was started from nothing. Raises UserError where the settings do not allow a start, WorkerLost
        where another try may help.
        """
        ...

    def run(self, name: str, request: StageRequest, on_wait: OnWait) -> dict[str, Any]:
        """Make one stage and return its metrics. `name` is for people, for example "round-001/policy".

        `on_wait` is called a few times a second, and ends the wait by what it raises. Raises what the stage raised where that is a
        LoopError; else OutOfMemory, WorkerLost where a worker died or hangs, or StageFailed. After that `start` makes it ready again.
        """
        ...

    def stop(self) -> None:
        """Free everything. `start` may be called again."""
        ...
