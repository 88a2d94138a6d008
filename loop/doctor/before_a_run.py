"""What a run says and refuses before its first stage. Must never import torch."""

import os
from pathlib import Path

from configs.errors import UserError
from configs.schema import RunConfig
from loop.doctor.fitting import check_fits, plan_for
from loop.doctor.lengths import expected_lengths
from loop.doctor.machine import look_at_machine
from loop.doctor.model import find_base_model
from loop.doctor.needs import find_room
from loop.doctor.report import base_line, machine_line, memory_line


def threads_of(config: RunConfig) -> int:
    """The threads of each worker, as the executors choose them."""
    return config.runtime.threads or max(1, (os.cpu_count() or 1) // config.runtime.workers)


def first_lines(config: RunConfig, runs: Path) -> list[str]:
    """The first lines of a run: the machine, the base and the predicted peak. Raises UserError where the run does not fit.

    Nothing is downloaded. Where the shape of the base is not known, only the machine is described.
    """
    machine = look_at_machine(runs)
    lines = [machine_line(machine, config, threads_of(config))]
    try:
        base = find_base_model(config.base, download=False)
        shape = base.shape
    except UserError as unknown:
        return [*lines, f"memory: not predicted, because {unknown.what}"]
    room, lengths, on_gpu = find_room(machine, config), expected_lengths(config), bool(machine.gpus)
    check_fits(shape, config, lengths, room, on_gpu)
    return [*lines, base_line(config, base, shape), memory_line(plan_for(shape, config, lengths, on_gpu).needs(), room)]
