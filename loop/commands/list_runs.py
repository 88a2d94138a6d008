"""`list`: all runs of a folder, one line each."""

import argparse
import json

from configs.errors import UserError
from loop.commands.arguments import runs_folder
from loop.printing import say
from loop.report.reading import RunView, read_run, win_rate_over_sft
from loop.report.tables import MISSING, cell
from loop.round import RETRAIN, REWARD
from loop.store.estimates import estimate
from loop.store.layout import RunFolder, runs_in, runs_of_experiments
from loop.terminal import Terminal

HELP = "list the runs of a folder: state, rounds, and the last true reward, win rate or accuracy"
HEADERS = ["run", "state", "rounds", "at", "last figure", "started"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `list`."""
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code. A run whose journal is damaged is listed as such."""
    folder = runs_folder(options)
    runs = {run.name: run for run in runs_in(folder)} | runs_of_experiments(folder)
    found = [_row(name, run) for name, run in runs.items()]
    if options.json:
        say(json.dumps([dict(zip(HEADERS, row, strict=True)) for row in found], indent=2, ensure_ascii=False))
    elif found:
        Terminal().table(f"runs in {folder}", HEADERS, found)
    else:
        say(f"there is no run in {folder}; start one with `loop run`")
    return 0


def _row(name: str, folder: RunFolder) -> list[str]:
    try:
        run = read_run(folder.path)
    except UserError:
        return [name, "damaged", MISSING, MISSING, MISSING, MISSING]
    newest = [(r, name) for r, name, stage in run.state.stages() if stage.state != "pending"]
    at = "" if not newest else newest[-1][1] if newest[-1][0] is None else f"round {newest[-1][0]}, {newest[-1][1]}"
    return [name, run.state.state, f"{len(run.evaluated)} of {run.state.num_rounds}", at, last_figure(run), run.started]


def last_figure(run: RunView) -> str:
    """The last true reward, else the last win rate over the SFT policy, else the last accuracy of a reward model."""
    for r in reversed(run.evaluated):
        if gold := estimate(run.policy(r).get("gold")):
            return f"gold {cell(gold, '.2f')}"
        if rate := win_rate_over_sft(run.policy(r)):
            return f"win rate {cell(rate, '.0%')}"
    if gold := estimate(run.policy(None).get("gold")):
        return f"gold {cell(gold, '.2f')} (SFT)"
    for r in reversed(run.rounds):
        for stage, metric in ((RETRAIN, "accuracy_fresh"), (REWARD, "accuracy_heldout")):
            if accuracy := estimate(run.metrics(stage.name, r).get(metric)):
                return f"accuracy {cell(accuracy, '.0%')}"
    return MISSING
