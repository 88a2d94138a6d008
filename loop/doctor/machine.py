"""What this machine has: cores, memory with the limits of its container, GPUs, and disk. Must never import torch or Ray."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""The files of cgroup 2 and 1 that hold a container's limit and what it uses."""
GPU_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")
QUERY_SECONDS = 10


@dataclass(frozen=True)
class GPU:
    """A GPU and its memory in bytes."""

    name: str
    total: int
    free: int


@dataclass(frozen=True)
class Machine:
    """Sizes are in bytes. `memory` and `free_memory` are what this process may have, so a container's limit counts."""

    cores: int
    memory: int
    free_memory: int
    free_disk: int
    gpus: Sequence[GPU] = ()


def look_at_machine(runs: Path) -> Machine:
    """Look at this machine. runs: the directory of the runs, which need not exist yet."""
    memory = psutil.virtual_memory()
    limit, used = _container_limit()
    there = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=min(memory.total, limit) if limit else memory.total,
        free_memory=min(memory.available, limit - used) if limit else memory.available,
        free_disk=shutil.disk_usage(there).free,
        gpus=_gpus(),
    )


def _container_limit(root: Path = CGROUP) -> tuple[int, int]:
    """The limit of the container and what it uses; zeros where there is none. `max` and numbers beyond all machines mean no limit."""
    for limit, used in LIMITS:
        with suppress(OSError, ValueError):
            found = int((root / limit).read_text())
            if found < 1 << 60:
                return found, int((root / used).read_text())
    return 0, 0


def _gpus() -> list[GPU]:
    """The GPUs that NVIDIA's tool names; none where there is no such tool or it fails."""
    try:
        said = subprocess.run(GPU_QUERY, capture_output=True, text=True, timeout=QUERY_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return read_gpus(said)


def read_gpus(said: str) -> list[GPU]:
    """The GPUs in what the tool says: one a line, with its name, and total and free memory in MiB. Where it may not say how much is free,
    as of a GPU that is divided (MIG), all counts as free."""
    rows = [[cell.strip() for cell in line.rsplit(",", 2)] for line in said.splitlines() if line.count(",") >= 2]
    sizes = [(name, int(total), int(free) if free.isdigit() else int(total)) for name, total, free in rows if total.isdigit()]
    return [GPU(name, total << 20, free << 20) for name, total, free in sizes]
