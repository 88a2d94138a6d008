"""`experiment`: run several arms on several seeds, and compare them. loop/experiments does the work."""

import argparse
import shlex
from pathlib import Path

from loop.commands.arguments import runs_folder
from loop.commands.run import check_given
from loop.executors import executor_for
from loop.experiments.plan import Experiment, read_experiment
from loop.experiments.running import check_runs, make_runs
from loop.experiments.tables import NOTE, make_tables
from loop.failures import disk_errors_explained
from loop.round import DATA
from loop.signals import StopSignals
from loop.store.layout import MANIFEST, RunFolder
from loop.terminal import Terminal

HELP = "run several arms on several seeds, and compare them: the same command again resumes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `experiment`."""
    parser.add_argument("file", metavar="FILE", help="the YAML file of the experiment, for example experiments/iterate.yaml")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="a setting of all arms, for example runtime.threads=1")
    parser.add_argument("--seeds", type=_seed, nargs="+", metavar="N", help="the seeds, instead of those in the file")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    experiment = read_experiment(options.file, options.settings, options.seeds)
    folder = runs_folder(options).resolve() / experiment.name
    check_runs(experiment, folder)
    _check_inputs(experiment, folder)
    seeds = ["--seeds", *map(str, options.seeds)] if options.seeds else []
    command = shlex.join(["loop", "experiment", options.file, *options.settings, *seeds])
    terminal = Terminal()
    with StopSignals(terminal.say) as signals, disk_errors_explained(folder), executor_for(experiment.runtime, folder) as executor:
        results = make_runs(experiment, folder, terminal, executor, signals, command)
    for table in make_tables(results):
        terminal.table(*table)
    terminal.say(f"{NOTE}\nwritten to {folder / 'results.md'} and results.json")
    return 0


def _check_inputs(experiment: Experiment, folder: Path) -> None:
    """What `run` checks before it starts, for every arm. Raises UserError."""
    for arm in experiment.arms.values():
        runs = [RunFolder(folder / arm.run_name(seed)) for seed in experiment.seeds]
        data_was_read = all((run.stage(DATA.name, None) / MANIFEST).exists() for run in runs)
        check_given(arm.given_at(experiment.seeds[0]), data_was_read)


def _seed(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"must be whole numbers of at least 0, not {word!r}; give settings before --seeds")
    return int(word)
