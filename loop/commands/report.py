"""`report`: write one HTML file that says what a run, two runs or an experiment did. loop/report does the work."""

import argparse
from pathlib import Path

from configs.errors import UserError
from loop.commands.arguments import find_run, new_file, number_from, runs_folder
from loop.failures import disk_errors_explained
from loop.printing import say
from loop.report.experiment import experiment_page, is_experiment
from loop.report.page import Page, render, runs_page
from loop.report.reading import read_run
from loop.store.artifacts import write_synced

HELP = "write a report of a run, of two runs side by side, or of an experiment, as one HTML file"
SAMPLES = 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `report`."""
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="the name of a run or of an experiment; not needed where there is only one run"
    )
    parser.add_argument("other", nargs="?", metavar="RUN2", help="a second run, to be compared with the first")
    parser.add_argument("--output", metavar="FILE", help="where to write the report (default: RUN.html, or RUN-RUN2.html)")
    parser.add_argument(
        "--samples", type=number_from(0), default=SAMPLES, metavar="N", help=f"about how many answers it holds (default: {SAMPLES})"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    runs = runs_folder(options)
    page, name = _page(runs, options)
    output = new_file(options.output or f"{name}.html", "the report")
    with disk_errors_explained(output.absolute().parent):
        write_synced(output, render(page))
    for answer in [answer for story in page.stories for answer in story.answers]:
        say(f"{answer.question:<24} {answer.headline}")
    say(f"written to {output}")
    return 0


def _page(runs: Path, options: argparse.Namespace) -> tuple[Page, str]:
    """The page, and the name that its file has by default."""
    if options.run and not options.other and is_experiment(runs / options.run):
        return experiment_page(runs / options.run), options.run
    first = find_run(runs, options.run)
    folders = [first] + ([find_run(runs, options.other)] if options.other else [])
    if len(folders) == 2 and folders[0] == folders[1]:
        raise UserError("a run cannot be compared with itself", options.run, "name two runs")
    views = [read_run(folder, folder.relative_to(runs).as_posix()) for folder in folders]
    return runs_page(views, options.samples), "-".join(view.name.replace("/", "-") for view in views)
