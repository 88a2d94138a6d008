"""What goes wrong outside the code: disks that are full or closed, memory that runs out, workers that fall silent.

Here it is told apart and put into words; what is done about it is the driver's business. Must never import torch, nor Ray.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from configs.errors import LoopError
from configs.schema import RunConfig

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
FULL_BYTES = 1 << 20
MICRO_BATCHES = {"sft": "sft", "labeler": "reward", "reward": "reward", "policy": "ppo", "retrain": "reward", "select": "select"}
"""The section whose micro batch decides how much memory a stage takes to train, by stage. The other stages only sample."""


class StageFailed(LoopError):
    """A stage raised on a worker; `detail` is the traceback for the log."""

    def __init__(self, message: str, detail: str):
        super().__init__(message, detail)
        self.detail = detail

    def __str__(self) -> str:
        return self.args[0]


class WorkerLost(LoopError):
    """A worker or Ray died or is not heard of; the stage can go on with new ones. `detail` is for the log."""

    def __init__(self, message: str, detail: str = ""):
        super().__init__(message, detail)
        self.detail = detail

    def __str__(self) -> str:
        return self.args[0]


class OutOfMemory(LoopError):
    """A worker had not enough memory, by its own word, Ray's or the kernel's."""


@contextmanager
def disk_errors_explained(folder: Path) -> Iterator[None]:
    """A full or unwritable disk, or a file that is not to be had, ends with one message and exit code 4."""
    try:
        yield
    except OSError as error:
        other = LoopError(f"{error.strerror}: {error.filename}\n  to do: mend that; the same command goes on from the last checkpoint")
        raise disk_error(error, folder) or other from None


def disk_error(error: Exception, folder: Path) -> LoopError | None:
    """What to say where the disk is the cause of an error, or of a failed stage; None where it is not."""
    text = f"{error} {getattr(error, 'detail', '')}"
    said = getattr(error, "errno", None) in DISK_ERRORS or any(os.strerror(number) in text for number in DISK_ERRORS)
    stage_failed_on_full_disk = hasattr(error, "detail") and folder.exists() and shutil.disk_usage(folder).free < FULL_BYTES
    if not said and not stage_failed_on_full_disk:
        return None
    full = not any(os.strerror(number) in text for number in DISK_ERRORS[2:])
    what = "the disk is full" if full else f"the run directory cannot be written: {str(error).splitlines()[0]}"
    to_do = "make space, or move it to a larger disk" if full else "check its owner and its disk, or choose another with --runs"
    return LoopError(f"{what}\n  where: {folder}\n  to do: {to_do}; the same command goes on from the last checkpoint")


def what_to_lower(stage: str, config: RunConfig) -> str:
    """The settings that decide how much memory a stage takes, with their values. All are run time, so a run goes on with smaller ones."""
    sampling = f"generation.batch_size (now {config.generation.batch_size})"
    if stage not in MICRO_BATCHES:
        return sampling
    section = getattr(config, MICRO_BATCHES[stage])
    rows = (
        section.micro_batch_size or section.batch_size // (config.ppo.num_minibatches if stage == "policy" else 1) // config.runtime.workers
    )
    training = f"{MICRO_BATCHES[stage]}.micro_batch_size (now {rows})"
    return f"{training} or {sampling}" if stage in ("reward", "policy", "retrain") else training


def error_to_json(error: LoopError) -> dict[str, Any]:
    """An error as plain data, so that it can cross a pipe."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, LoopError)]
    return {"kinds": kinds, "arguments": [str(argument) for argument in error.args]}


def error_from_json(data: dict[str, Any]) -> LoopError:
    """The error again, as the nearest of its kinds that this process knows."""
    known = _by_name(LoopError)
    kind = next(known[name] for name in data["kinds"] if name in known)
    return kind(*data["arguments"])


def _by_name(kind: type[LoopError]) -> dict[str, type[LoopError]]:
    found = {kind.__name__: kind}
    for child in kind.__subclasses__():
        found |= _by_name(child)
    return found


def oom_kills() -> int:
    """How many processes this machine's kernel has killed for want of memory."""
    with suppress(OSError, ValueError):
        lines = Path("/proc/vmstat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0
