"""What goes wrong outside the code: disks that are full, memory that runs out, workers that die.

This module tells such failures apart and words the messages. What is done about them is decided by the driver.

    LoopError              see configs/errors.py
    ├── StageFailed        a stage raised something else than a LoopError
    ├── WorkerLost         a worker or Ray died or hangs; the stage can continue with new workers
    └── OutOfMemory        a worker did not have enough memory

Must never import torch or Ray.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from configs.errors import LoopError
from configs.schema import RunConfig

RESUMES = "the same command continues from the last checkpoint"
FULL, REFUSED = (errno.ENOSPC, errno.EDQUOT), (errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of a disk: it has no space left, or it may not be written."""
FULL_BYTES = 1 << 20
NAMED_PATH = re.compile(r"\[Errno \d+\] [^:\n]+: '([^'\n]+)'")
"""How an OSError says which file it is about, also where it is quoted in another text."""
TRACEBACK_LINES = 5
"""How many lines of a traceback are shown where there is no log."""
NO_MEMORY = ("not enough memory", "can't allocate memory", "CUDA out of memory")
"""What torch says where it raises a plain RuntimeError."""
MICRO_BATCHES = {
    "sft": "sft",
    "pmp": "pmp",
    "labeler": "reward",
    "reward": "reward",
    "retrain": "reward",
    "select": "select",
    "refresh": "keep",
}
"""What `training_section` gives for each stage but `policy`."""
SAMPLING_ONLY = ("baseline", "sample", "answer")
"""Stages that neither train nor score anything."""


class StageFailed(LoopError):
    """A stage raised on a worker. `detail` is the traceback, for the log."""

    def __init__(self, message: str, detail: str):
        super().__init__(message, detail)
        self.detail = detail

    def __str__(self) -> str:
        return self.args[0]


class WorkerLost(LoopError):
    """A worker or Ray died or hangs. The stage can continue with new workers. `detail` is for the log."""

    def __init__(self, message: str, detail: str = ""):
        super().__init__(message, detail)
        self.detail = detail

    def __str__(self) -> str:
        return self.args[0]


class OutOfMemory(LoopError):
    """A worker did not have enough memory, according to torch, Ray or the kernel."""


def stage_error(error: BaseException, traceback: str) -> LoopError:
    """What a stage raised, as a LoopError: itself if it is one, else OutOfMemory or StageFailed."""
    if isinstance(error, LoopError):
        return error
    kind = type(error).__name__
    if isinstance(error, MemoryError) or "outofmemory" in kind.lower() or any(words in str(error) for words in NO_MEMORY):
        return OutOfMemory(": ".join([kind, *str(error).splitlines()[:1]]))
    return StageFailed(f"{kind}: {error}", traceback)


@contextmanager
def disk_errors_explained(folder: Path) -> Iterator[None]:
    """Turn an OSError into one message and exit code 4: a full disk, a directory that cannot be written, or what the system says."""
    try:
        yield
    except BrokenPipeError:  # the reader of standard output has ended, which is no failure
        raise
    except OSError as error:
        other = LoopError(f"{error.strerror}: {error.filename}\n  to do: fix this; {RESUMES}")
        raise disk_error(error, folder) or other from None


def disk_error(error: Exception, folder: Path) -> LoopError | None:
    """The message where the disk of a run is the cause of an error or of a failed stage. None where it is not, and where only a file
    elsewhere may not be opened, such as one with labels."""
    text, number = f"{error} {getattr(error, 'detail', '')}", getattr(error, "errno", None)
    full, refused = (number in kind or any(os.strerror(one) in text for one in kind) for kind in (FULL, REFUSED))
    stage_failed_on_full_disk = hasattr(error, "detail") and folder.exists() and shutil.disk_usage(folder).free < FULL_BYTES
    if refused and not full and not _concerns(text, folder):
        return None
    if not (full or refused or stage_failed_on_full_disk):
        return None
    what = f"the run directory cannot be written: {str(error).splitlines()[0]}" if refused else "the disk is full"
    to_do = (
        "check its owner and its disk, or choose another with --runs" if refused else "free some space, or move the run to a larger disk"
    )
    return LoopError(f"{what}\n  where: {folder}\n  to do: {to_do}; {RESUMES}")


def _concerns(text: str, folder: Path) -> bool:
    """Whether an error names a path in the folder or above it, or none at all."""
    named, folder = [Path(path).absolute() for path in NAMED_PATH.findall(text)], folder.absolute()
    return not named or any(path.is_relative_to(folder) or folder.is_relative_to(path) for path in named)


def memory_error(name: str, stage: str, config: RunConfig, why: OutOfMemory) -> OutOfMemory:
    """The message for a stage that ran out of memory: which settings to lower."""
    return OutOfMemory(
        f"{name} ran out of memory ({why})\n  to do: lower {what_to_lower(stage, config)} and run the command again, "
        "which continues from the last checkpoint; or give the machine more memory"
    )


def training_section(stage: str, config: RunConfig) -> str | None:
    """The section whose micro batch decides how much memory the training in a stage takes. None if the stage does not train."""
    return (MICRO_BATCHES | {"policy": config.trainer}).get(stage)


def what_to_lower(stage: str, config: RunConfig) -> str:
    """The settings that decide how much memory a stage takes, with their values. All are run time, so a run can continue with others."""
    sampling = f"generation.batch_size (now {config.generation.batch_size})"
    scoring = f"runtime.tokens_per_batch (now {config.runtime.tokens_per_batch})"
    name = training_section(stage, config)
    if not name:
        return sampling if stage in SAMPLING_ONLY else f"{sampling} or {scoring}"
    section, minibatches = getattr(config, name), config.ppo.num_minibatches if name == "ppo" else 1
    rows = section.micro_batch_size or section.batch_size // minibatches // config.runtime.workers
    training = f"{name}.micro_batch_size (now {rows})"
    if stage in ("sft", "refresh"):
        return training
    return f"{training}, {sampling} or {scoring}" if stage in ("reward", "retrain") or name == "ppo" else f"{training} or {scoring}"


def oom_kills() -> int:
    """How many processes this machine's kernel has killed because memory ran out."""
    with suppress(OSError, ValueError):
        lines = Path("/proc/vmstat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0


def error_to_json(error: LoopError) -> dict[str, Any]:
    """An error as plain data, so that it can cross a pipe."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, LoopError)]
    return {"kinds": kinds, "arguments": [str(argument) for argument in error.args]}


def error_from_json(data: dict[str, Any]) -> LoopError:
    """The error from `error_to_json`, as the most specific of its kinds that this process knows."""
    known = _by_name(LoopError)
    kind = next(known[name] for name in data["kinds"] if name in known)
    return kind(*data["arguments"])


def _by_name(kind: type[LoopError]) -> dict[str, type[LoopError]]:
    found = {kind.__name__: kind}
    for child in kind.__subclasses__():
        found |= _by_name(child)
    return found
