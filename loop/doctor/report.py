"""What `loop doctor` and the first lines of `loop run` say, as lines and table rows. Must never import torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from configs.schema import RunConfig
from loop.doctor.fitting import in_gib
from loop.doctor.machine import Machine
from loop.doctor.model import BaseModel
from loop.doctor.needs import OWNERS, Need, Room, largest
from loop.round import STAGES
from policies.footprint import Model
from policies.shapes import Shape

MINUTE, HOUR = 60, 3600
TITLES = {"kv_cache": "KV cache", "merged": "merged weights", "labeler": "labeling model"}
PATHS = {
    "unpadded": ("rows without padding", "attention of this model gives other numbers without padding"),
    "fused": ("fused layers", "the layers are of another form, or are quantized"),
    "trimmed": ("the last layer for the needed tokens only", "the last layer has another form"),
    "start_layer": ("start at the first layer with an adapter", "lora.layers is not upper-half, or passes cannot start there"),
    "merged_decoding": ("our own decode loop", "the layers are of another form, or are quantized"),
}
"""Fast path -> its name for people, and why it is off."""


def machine_line(machine: Machine, config: RunConfig, threads: int) -> str:
    """The machine and its workers in one line."""
    gpus = ", ".join(f"{gpu.name} with {in_gib(gpu.total)} ({in_gib(gpu.free)} free)" for gpu in machine.gpus) or "no GPU"
    workers = f"{config.runtime.workers} worker" + "s" * (config.runtime.workers > 1)
    return (
        f"machine: {machine.cores} cores, {in_gib(machine.memory)} of memory ({in_gib(machine.free_memory)} free), {gpus}, "
        f"{in_gib(machine.free_disk)} of disk free; {workers} with {threads} thread" + "s" * (threads > 1)
    )


def base_line(config: RunConfig, base: BaseModel, shape: Shape) -> str:
    """The base, its size and its number format."""
    kind = config.base.dtype if config.base.quantization == "none" else f"{config.base.quantization.upper()} and {config.base.dtype}"
    return f"base: {config.base.model} ({shape.model_type}, {_count(shape.parameters)} parameters) in {kind}; shape from {base.source}"


def memory_line(needs: Sequence[Need], room: Room) -> str:
    """The predicted peak beside what there is, and a warning where it is not free now."""
    peak = largest(list(needs))
    total = peak.total + room.program
    line = (
        f"memory: at most {in_gib(total)} predicted (stage {peak.stage}, {peak.phase}; {in_gib(room.program)} of it for libraries); "
        f"{room.device} has {in_gib(room.total)}, of which {in_gib(room.free)} are free"
    )
    is_tight = room.free < total <= room.total
    return f"{line}\n  warning: this is more than is free now, so end something else before the run gets there" if is_tight else line


def memory_rows(needs: Sequence[Need], flops: Mapping[str, float], seconds: Mapping[str, float]) -> tuple[list[str], list[list[str]]]:
    """The table of stages: the bytes of each owner in the largest phase, and where they are known FLOPs and time.

    Stages that need no more memory than another one of their kind have FLOPs and time only.
    """
    owners = [owner for owner in OWNERS if any(need.owners.get(owner) for need in needs)]
    headers = ["stage", "largest phase", *(TITLES.get(owner, owner) for owner in owners), "total", "FLOPs"] + ["time"] * bool(seconds)
    memory = {need.stage: [need.phase, *(_size(need.owners.get(owner, 0)) for owner in owners), in_gib(need.total)] for need in needs}
    rows = []
    for stage in dict.fromkeys(stage.name for stage in STAGES if stage.name in memory or stage.name in flops):
        cells = [stage, *memory.get(stage, [""] * (len(owners) + 2)), f"{flops[stage]:.1e}" if stage in flops else ""]
        rows.append(cells + [in_time(seconds[stage]) if stage in seconds else ""] * bool(seconds))
    return headers, rows


def path_lines(paths: Mapping[str, Any], model: Model) -> list[str]:
    """Each fast path, on or off, and why it is off."""
    lines = []
    for name, (title, why) in PATHS.items():
        is_on = model.is_fused if name == "fused" else bool(paths.get(name))
        lines.append(f"  {title}: {'on' if is_on else f'off, because {why}'}")
    return ["fast paths (measured on a random model of this shape):", *lines]


def in_time(seconds: float) -> str:
    """A time for people."""
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"


def _size(size: int) -> str:
    return in_gib(size) if size >= 2**20 else "0" if not size else "< 1 MiB"


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e9 else f"{number / 1e6:.1f} million"
