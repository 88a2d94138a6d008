"""`doctor`: what a run would need, before it starts: memory by owner for each stage, time, disk, and which fast paths it would take.

It writes nothing and starts no run. Without `--time` and `--load` it only calculates. With them, a child process does a few steps on a
random model of the same shape.
"""

import argparse
from dataclasses import replace

from configs.errors import UserError
from configs.loading import Given, read_given
from configs.schema import RunConfig
from loop.commands.arguments import add_config_and_settings, add_rounds, config_and_settings, number_from, runs_folder
from loop.commands.run import check_given
from loop.doctor.fitting import GIB, check_fits, in_gib, plan_for
from loop.doctor.lengths import Lengths, expected_lengths
from loop.doctor.machine import GPU, Machine, look_at_machine
from loop.doctor.measuring import measure
from loop.doctor.model import find_base_model
from loop.doctor.needs import find_room
from loop.doctor.report import base_line, in_time, machine_line, memory_line, memory_rows, path_lines
from loop.doctor.work import Pairs, count_pairs, disk_bytes, stage_flops, stage_seconds, stage_work, unit_flops, units_of, whole_run
from loop.terminal import Terminal
from policies.footprint import Model

HELP = "say what a run would need before it starts: memory, time and disk by stage, and what does not fit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `doctor`."""
    add_config_and_settings(parser)
    add_rounds(parser)
    parser.add_argument("--gpu", type=number_from(1), metavar="GIB", help="predict for a GPU with this much memory instead of this machine")
    parser.add_argument("--time", action="store_true", help="time a few steps on a random model of this shape, and predict the run's time")
    parser.add_argument("--load", action="store_true", help="load a random model of this shape, and say which fast paths it takes")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code. Raises UserError where the run does not fit."""
    file, settings = config_and_settings(options.settings)
    given = read_given(file, settings, num_rounds=options.rounds)
    machine = look_at_machine(runs_folder(options).resolve())
    if options.gpu:
        machine = replace(machine, gpus=[GPU("a GPU as given by --gpu", options.gpu * GIB, options.gpu * GIB)])
    examine(given, machine, Terminal(), times=options.time, loads=options.load)
    return 0


def examine(given: Given, machine: Machine, terminal: Terminal, times: bool, loads: bool) -> None:
    """Print what the run needs. Raises UserError where it does not fit; everything else is printed before that."""
    config = given.resolve()
    terminal.say(_missing(given))
    room, threads, on_gpu = find_room(machine, config), config.runtime.threads_per_worker, bool(machine.gpus)
    terminal.say(machine_line(machine, config, threads))
    base = find_base_model(config.base, download=True)
    lengths, pairs = expected_lengths(config), count_pairs(config)
    model, work = Model(base.shape, config.base, config.lora, on_gpu), stage_work(config, pairs)
    terminal.say(base_line(config, base, base.shape))
    needs = plan_for(base.shape, config, lengths, on_gpu).needs()
    measured = None
    if times or loads:
        with terminal.stage("timing a few steps"):
            measured = measure(config, base.config, lengths, units_of(work) if times else ["sample"], threads)
    seconds = stage_seconds(work, measured.seconds) if measured and times else {}
    flops = stage_flops(work, unit_flops(model, config, lengths))
    terminal.table("memory of each worker by stage (rows as long as they may be)", *memory_rows(needs, flops, seconds))
    terminal.say(memory_line(needs, room))
    _say_work(terminal, config, pairs, seconds, flops)
    _say_disk(terminal, model, config, lengths, machine)
    if measured:
        terminal.say("\n".join(path_lines(measured.paths, model)))
    if not config.runtime.address:  # the machines of a cluster are not this one
        check_fits(base.shape, config, lengths, room, on_gpu)


def _missing(given: Given) -> str:
    """What `run` would refuse before anything about memory, such as a file that is not there yet."""
    try:
        check_given(given, data_was_read=False)
    except UserError as error:
        return f"the run could not start yet: {error}"
    return "the settings and the files that they name are in order"


def _say_work(terminal: Terminal, config: RunConfig, pairs: Pairs, seconds: dict[str, float], flops: dict[str, float]) -> None:
    """The run as a whole."""
    counted = "assumed, because the data was not counted" if pairs.is_assumed else "counted or set"
    terminal.say(f"work: {pairs.training} training pairs ({counted}), {config.num_rounds} rounds, {whole_run(flops, config):.1e} FLOPs")
    if seconds:
        terminal.say(
            f"time: about {in_time(whole_run(seconds, config))} for all rounds, from a few timed steps; labels by people not counted"
        )


def _say_disk(terminal: Terminal, model: Model, config: RunConfig, lengths: Lengths, machine: Machine) -> None:
    """What the run writes, beside what is free. Raises nothing: a run that fills the disk stops, and can continue."""
    found = disk_bytes(model, config, lengths)
    total = found["setup"] + config.num_rounds * found["each round"] + found["checkpoint"]
    parts = ", ".join(f"{name} {in_gib(size)}" for name, size in found.items())
    line = f"disk: about {in_gib(total)} in all ({parts}); {in_gib(machine.free_disk)} are free"
    terminal.say(f"{line}\n  warning: this is more than is free" if total > machine.free_disk else line)
