"""The protocol between the driver and whatever runs its stages. `fleet.py` runs them on Ray, `in_process.py` in this process.

An executor belongs to whoever makes it, not to a run: several drivers may use one, one after the other, and whoever made it stops
it at the end. Must never import torch or Ray.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

OnWait = Callable[[], None]
QUIET_LIBRARIES = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
"""Environment variables that keep the libraries of a worker from printing."""


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
    """What `Executor.start` has started: the seconds that each part took, and the address of a dashboard where there is one."""

    seconds: dict[str, float]
    dashboard: str | None = None


class Executor(Protocol):
    """Runs stages."""

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
