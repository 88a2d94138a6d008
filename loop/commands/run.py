"""`run`: start a run, or continue it. Settings that are not given are taken from the run's own config, where the run exists."""

import argparse
import time
from pathlib import Path

from configs.errors import UserError
from configs.loading import Given, read_given, validate
from configs.schema import RunConfig
from loop.commands.arguments import add_quiet, add_rounds, find_run, run_name, runs_folder
from loop.commands.explaining import about_a_run
from loop.doctor.before_a_run import first_lines
from loop.driver import Driver
from loop.executors import executor_for
from loop.failures import disk_errors_explained
from loop.forks import fork
from loop.functions import check_functions
from loop.round import DATA, PMP, Run, run_rounds
from loop.signals import StopSignals
from loop.store.journal import fold, read_events
from loop.store.layout import MANIFEST, RunFolder, runs_in
from loop.store.run_config import read_config
from loop.terminal import Terminal
from loop.trackers import check_installed
from policies.base_folder import check_base
from rewards.data.sources import check_given_sources, check_labels
from rewards.ready_folders import check_ready_model

PROCESS_STARTED = time.monotonic()
HELP = "start a run, or continue it: the same command again resumes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `run`."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, about_a_run()
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="a setting, for example ppo.num_updates=10")
    add_rounds(parser)
    add_quiet(parser)
    parser.add_argument("--config", metavar="FILE", help="a YAML file or the name of a preset (default: the embedded world)")
    parser.add_argument("--name", metavar="RUN", help="the name of the run, which is also the name of its directory")
    parser.add_argument(
        "--fork",
        type=run_name,
        metavar="NEW",
        help="leave the run as it is; start the run NEW with the settings given here, and take over the stages that they do not change",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    given = read_given(options.config, options.settings, name=options.name, num_rounds=options.rounds)
    start(runs_folder(options).resolve(), given, options.fork, options.quiet)
    return 0


def start(runs: Path, given: Given, fork_name: str | None = None, is_quiet: bool = False) -> None:
    """Make the run that is given, or fork it as `fork_name` and make the fork. Raises a LoopError unless all rounds are done."""
    terminal = Terminal(is_quiet)
    folder = RunFolder(runs / given.name())
    if not folder.journal.exists() and runs_in(folder.path):
        what = f"there is an experiment {folder.name!r}, so no run can have this name"
        raise UserError(what, str(folder.path), "give the run another name: --name RUN")
    reads_new_data = fork_name is not None and any(given.get(("data", name)) is not None for name in ("source", "sources"))
    if folder.config.exists():
        own = read_config(folder.path, fold(read_events(folder.journal)))
        given = given.over(own.model_copy(update={"name": folder.name}), str(folder.config))
    data_was_read, votes_were_read = ((folder.stage(stage.name, None) / MANIFEST).exists() for stage in (DATA, PMP))
    config = check_given(given, data_was_read and not reads_new_data, votes_were_read and fork_name is None)
    with StopSignals(terminal.say) as signals:
        if fork_name is not None:
            source, config = find_run(runs, config.name), validate(config.model_dump() | {"name": fork_name}, f"--fork {fork_name}")
            with disk_errors_explained(runs):
                taken = fork(source, runs / fork_name, config)
            terminal.say(f"{fork_name}: {len(taken)} stages taken over from {source.name}")
        with executor_for(config, runs / config.name) as executor:

            def program(driver: Run) -> None:
                terminal.say("\n".join(first_lines(config, runs)))
                run_rounds(driver)

            Driver(config, runs / config.name, terminal, executor, signals, PROCESS_STARTED).execute(program)


def check_given(given: Given, data_was_read: bool, votes_were_read: bool = False) -> RunConfig:
    """The whole config, after everything that can be checked before Ray starts. Raises UserError.

    Files come first: a file that does not exist is more likely than settings that do not fit together.
    """
    if not data_was_read:
        check_given_sources(given.get(("data",)), given.place(("data", "source")), given.place(("data", "sources")))
    if not votes_were_read:
        check_given_sources({"sources": given.get(("pmp", "sources"))}, "", given.place(("pmp", "sources")))
    check_labels(given.get(("labeler", "path")), given.place(("labeler", "path")))
    config = given.resolve()
    check_functions(config, given.place)
    check_base(config, given.place(("base", "model")))
    check_ready_model(config.labeler, given.place(("labeler", "model")))
    check_installed(config, given.place(("report_to",)))
    return config
