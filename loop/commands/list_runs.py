"""`list`: all runs of a folder, one line each."""

import argparse

from loop.commands.arguments import runs_folder
from loop.commands.overview import show
from loop.printing import say
from loop.store.layout import all_runs

HELP = "list all runs, one line each: state, rounds, stage, and the last true reward, win rate or accuracy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `list`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object with all runs")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code. A run whose journal is damaged is listed as such."""
    folder = runs_folder(options)
    runs = all_runs(folder)
    if runs or options.json:
        show(runs, options.json)
    else:
        say(f"there is no run in {folder}; start one with `loop run`")
    return 0
