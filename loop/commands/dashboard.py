"""`dashboard`: where Ray's dashboard and the metrics of a running run are, and how to log in. Must never import Ray."""

import argparse
from pathlib import Path

from configs.errors import UserError
from loop.commands.arguments import add_run, find_run, runs_folder
from loop.printing import say
from loop.store.journal import RunState, fold, read_events
from loop.store.layout import RunFolder, all_runs, stage_name
from loop.store.lock import is_locked
from loop.store.progress import read_progress

HELP = "print the address of Ray's dashboard for a run that is running, and how to log in"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `dashboard`."""
    add_run(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    folder = _find_running(runs_folder(options), options.run)
    state = fold(read_events(folder.journal))
    if state.dashboard is None:
        to_do = "ask again in half a minute; a run with runtime.executor=in-process has no dashboard at all"
        raise UserError(f"the run {folder.name!r} has not started Ray", str(folder.path), to_do)
    lines = [
        f"{folder.name} is running{_place(folder, state)}",
        f"  dashboard  {state.dashboard}",
        "  log in     with the token that `ray get-auth-token` prints; the page asks for it once",
    ]
    lines += [f"  metrics    {state.prometheus} (for Prometheus; docs/watching.md says how)"] if state.prometheus else []
    say("\n".join(lines))
    return 0


def _find_running(runs: Path, name: str | None) -> RunFolder:
    """The run of that name, or the only one that is running. Raises UserError if it is not running."""
    if name is not None:
        folder = RunFolder(find_run(runs, name))
        if not is_locked(folder.path):
            what = f"the run {name!r} is not running, so it has no dashboard"
            raise UserError(what, str(folder.path), f"continue it: `loop resume {name}`")
        return folder
    running = {name: folder for name, folder in all_runs(runs).items() if is_locked(folder.path)}
    if not running:
        raise UserError("no run is running, so there is no dashboard", str(runs), "start one with `loop run`")
    if len(running) > 1:
        raise UserError(f"several runs are running: {', '.join(running)}", str(runs), "name one of them")
    return next(iter(running.values()))


def _place(folder: RunFolder, state: RunState) -> str:
    """Where the run is, as the end of a sentence."""
    for round_number, stage, row in state.stages():
        if row.state == "running":
            now = read_progress(folder.work(stage, round_number).progress)
            return f" {stage_name(stage, round_number)}{f', {now.done} of {now.total}' if now.total else ''}"
    return ""
