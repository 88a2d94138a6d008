"""`resume`: continue a run that exists, with the settings that it was started with."""

import argparse

from configs.loading import read_given
from loop.commands.arguments import add_quiet, add_rounds, add_run, check_has_config, find_run, runs_folder
from loop.commands.run import start
from loop.store.layout import RunFolder

HELP = "continue a run that exists, with the settings that it was started with"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `resume`."""
    add_run(parser)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="a run-time setting, for example ppo.micro_batch_size=4")
    add_rounds(parser)
    add_quiet(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if options.run and "=" in options.run:  # argparse takes the first word for the run's name
        options.run, options.settings = None, [options.run, *options.settings]
    folder = RunFolder(find_run(runs_folder(options).resolve(), options.run))
    check_has_config(folder)
    start(folder.path.parent, read_given(None, options.settings, name=folder.name, num_rounds=options.rounds), is_quiet=options.quiet)
    return 0
