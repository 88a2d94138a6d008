"""`logs`: what happened in a run, from its journal, and the ends of its log files, without the secrets that a library may have printed."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from configs.errors import UserError
from loop.commands.arguments import add_run, find_run, number_from, runs_folder
from loop.masking import masked, secrets_here, secrets_of
from loop.printing import say
from loop.store.journal import Event, fold, read_events
from loop.store.layout import RunFolder, stage_name
from loop.store.run_config import read_config

HELP = "print what happened in a run and when, and the ends of its log files"
LINES, TAIL_BYTES = 40, 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `logs`."""
    add_run(parser)
    parser.add_argument(
        "--lines", type=number_from(1), default=LINES, metavar="N", help=f"of each file at most the last N (default: {LINES})"
    )
    parser.add_argument("--all", action="store_true", help="print all lines")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    folder = RunFolder(find_run(runs_folder(options), options.run))
    kept = slice(None) if options.all else slice(-options.lines, None)
    events = read_events(folder.journal)
    secrets = _secrets(folder, events)
    say(f"== {folder.journal}")
    for event in events[kept]:
        say(masked(line(event), secrets))
    for path in sorted(folder.ray_log.parent.glob("*.log")):
        say(f"\n== {path}")
        say(masked("\n".join(_last_lines(path, options.all)[kept]), secrets))
    return 0


def _secrets(folder: RunFolder, events: Sequence[Event]) -> list[str]:
    """The secrets of the run, as far as they are known: its settings may be damaged, or those of another version."""
    try:
        return secrets_of(read_config(folder.path, fold(events)))
    except UserError:
        return secrets_here()


def line(event: Event) -> str:
    """One event as a line of text."""
    where = stage_name(event.stage, event.round) if event.stage else ""
    seconds = f"{event.seconds:.1f} s" if event.seconds is not None else ""
    copied = f"copied from {event.copied_from}" if event.copied_from else ""
    rounds = f"{event.num_rounds} rounds" if event.num_rounds is not None else ""
    parts = [event.at, event.event.replace("_", " "), where, seconds, rounds, copied, event.message or ""]
    return "  ".join(part for part in parts if part)


def _last_lines(path: Path, is_whole: bool) -> list[str]:
    """The lines of a log, or those in its last MiB."""
    with path.open("rb") as file:
        if not is_whole:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
        return file.read().decode("utf-8", errors="replace").splitlines()
