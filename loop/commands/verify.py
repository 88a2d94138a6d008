"""`verify`: hash everything that a run has committed again, and compare."""

import argparse

from configs.errors import UserError
from loop.commands.arguments import add_run, find_run, runs_folder
from loop.printing import say
from loop.store import upkeep

HELP = "check the hashes of everything that a run has committed, and name what is damaged"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `verify`."""
    add_run(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    folder = find_run(runs_folder(options), options.run)
    damage, stages = upkeep.verify(folder)
    if damage:
        count = f"{len(damage)} things are damaged" if len(damage) > 1 else "one thing is damaged"
        to_do = "delete the directory of a damaged stage, and the same run command makes it again; remove what does not belong there"
        raise UserError("\n  ".join([count, *damage]), str(folder), to_do)
    say(f"{folder.name}: {stages} stages, nothing damaged")
    return 0
