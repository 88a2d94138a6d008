"""What a run says and refuses before its first stage. Must never import torch."""

from pathlib import Path

from configs.errors import UserError
from configs.schema import RunConfig
from loop.doctor.fitting import check_fits, in_gib, plan_for
from loop.doctor.lengths import Lengths, expected_lengths
from loop.doctor.machine import look_at_machine
from loop.doctor.model import find_base_model
from loop.doctor.needs import find_room, largest
from loop.doctor.report import base_line, machine_line, memory_line

ONE_TOKEN = Lengths(1, 1, 1, 1, 1)
"""Rows that no run can be shorter than."""


def first_lines(config: RunConfig, runs: Path) -> list[str]:
    """The machine, the base and the predicted peak. Raises UserError where the run cannot fit, however short its rows are.

    Nothing is downloaded. Where the shape of the base is not known, only the machine is described. The data has not been read yet, so rows
    that would be too long are a warning.
    """
    machine = look_at_machine(runs)
    lines = [machine_line(machine, config, config.runtime.threads_per_worker)]
    try:
        base = find_base_model(config.base, download=False)
        shape = base.shape
    except UserError as unknown:
        return [*lines, f"memory: not predicted, because {unknown.what}"]
    lengths, on_gpu = expected_lengths(config), bool(machine.gpus)
    needs = plan_for(shape, config, lengths, on_gpu).needs()
    lines.append(base_line(config, base, shape))
    if config.runtime.address:
        return [
            *lines,
            f"memory: at most {in_gib(largest(needs).total)} of each worker predicted; the machines of the cluster are not asked",
        ]
    room = find_room(machine, config)
    check_fits(shape, config, ONE_TOKEN, room, on_gpu)
    lines.append(memory_line(needs, room))
    try:
        check_fits(shape, config, lengths, room, on_gpu)
    except UserError as error:
        lines.append(f"  warning: if rows are as long as the config allows, {error.what}: {error.to_do}")
    return lines
