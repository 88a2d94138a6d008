"""`label`: serve a page on which people compare the answers of the round that waits for labels. loop/labeling does the work.

It also writes the labels for other tools, and takes in theirs. aiohttp is imported only when a page is served.
"""

import argparse
from pathlib import Path

from configs.errors import UserError
from loop.commands.arguments import add_run, check_has_config, find_run, new_file, number_from, runs_folder
from loop.failures import disk_errors_explained
from loop.labeling.answers import opened, read_answers
from loop.labeling.desk import RunIsWorking, not_working
from loop.labeling.rounds import LabelingRound, read_round, state_of, waiting_round
from loop.labeling.transfer import FORMS, export, import_labels
from loop.printing import say
from loop.store.artifacts import write_synced
from loop.store.layout import RunFolder
from loop.store.lock import is_locked

HELP = "compare answers in a browser, for a run that waits for labels; or export and import labels"
PORT = 8750
DOUBLE = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `label`."""
    add_run(parser)
    parser.add_argument("--resume", action="store_true", help="continue the run when enough labels are in, in every round")
    parser.add_argument(
        "--double",
        type=_fraction,
        default=DOUBLE,
        metavar="FRACTION",
        help=f"the share of the pairs that two raters label, to see how far they agree (default: {DOUBLE})",
    )
    parser.add_argument("--port", type=number_from(0, 65535), default=PORT, metavar="PORT", help=f"the port of the page (default: {PORT})")
    parser.add_argument(
        "--host",
        type=_host,
        default="127.0.0.1",
        metavar="HOST",
        help="an address of this machine under which other machines reach the page, without encryption (default: this machine only)",
    )
    parser.add_argument("--export", metavar="FILE", help="write the labels into this file instead of serving a page")
    parser.add_argument("--form", choices=FORMS, help="the form of the export (default: csv for a file of that name, json for any other)")
    parser.add_argument("--import", dest="source", metavar="FILE", help="take in the labels of a file, of any form of --form or JSON lines")
    parser.add_argument("--round", type=number_from(0), metavar="R", help="the round to export or to import (default: the one that waits)")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    folder = RunFolder(find_run(runs_folder(options).resolve(), options.run))
    check_has_config(folder)
    if options.export and options.source:
        raise UserError("--export and --import are both given", "the command line", "give one of them, and then the other")
    if options.export or options.source:
        asked = read_round(folder, options.round) if options.round is not None else _waiting(folder)
        if options.export:
            return _export(asked, new_file(options.export, "the labels"), options.form)
        return _import(folder, asked, Path(options.source))
    if options.round is not None or options.form:
        raise UserError("--round and --form are for --export and --import", "the command line", "leave them out to serve the page")
    if not is_locked(folder.path):
        _waiting(folder)
    from loop.labeling.serving import serve

    with disk_errors_explained(folder.path):
        return serve(folder, (options.host, options.port), options.double, options.resume)


def _waiting(folder: RunFolder) -> LabelingRound:
    """The round that waits for labels. Raises UserError if there is none."""
    asked = waiting_round(folder)
    if asked is None:
        to_do = f"`loop resume {folder.name}` continues to the next labels" if state_of(folder) != "done" else "add a round: --rounds"
        raise UserError(f"no round of {folder.name!r} waits for labels: it is {state_of(folder)}", str(folder.path), to_do)
    return asked


def _export(asked: LabelingRound, target: Path, form: str | None) -> int:
    if target.resolve() in {file.resolve() for file in (asked.label_file, *asked.other_files)}:
        raise UserError("this is the label file of the run", str(target), "name another file")
    if not asked.label_file.exists():
        raise UserError(f"round {asked.number} has no labels yet", str(asked.label_file), f"`loop label {asked.run}`")
    answers = read_answers(asked.label_file).values()
    text, count = export(asked, answers, form or ("csv" if target.suffix == ".csv" else "json"))
    with disk_errors_explained(target.absolute().parent):
        write_synced(target, text)
    say(f"{count} labels of round {asked.number} written to {target}")
    return 0


def _import(folder: RunFolder, asked: LabelingRound, source: Path) -> int:
    try:
        with disk_errors_explained(asked.label_file.absolute().parent), not_working(folder.lock), opened(asked.label_file) as file:
            say("\n".join(import_labels(asked, source, file).lines()))
    except RunIsWorking:
        raise UserError("a process works on this run, and may be reading its labels", str(folder.path), "wait for it, or stop it") from None
    return 0


def _host(word: str) -> str:
    if not word:  # the library would listen on every address of this machine
        raise argparse.ArgumentTypeError("must be an address, not empty; leave it out to listen on this machine only")
    return word


def _fraction(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= 1.0:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, not {word!r}")
    return number
