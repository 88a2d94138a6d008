"""`gc`: remove what no start of a run would use."""

import argparse

from loop.commands.arguments import add_run, find_run, runs_folder
from loop.failures import disk_errors_explained
from loop.printing import say
from loop.store.upkeep import collect_garbage

HELP = "remove what failed attempts have left and nothing needs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `gc`."""
    add_run(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    folder = find_run(runs_folder(options), options.run)
    with disk_errors_explained(folder):
        removed = collect_garbage(folder)
    say(f"{folder.name}: {removed / 2**20:.1f} MiB removed")
    return 0
