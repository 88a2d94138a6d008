"""`status`: where a run stands and what it has measured."""

import argparse
import json
from collections.abc import Iterable
from typing import Any

from loop.commands.arguments import find_run, runs_folder
from loop.commands.overview import show
from loop.ledger import run_ledger
from loop.printing import say
from loop.round import ROUND_STAGES, SETUP_STAGES
from loop.store.journal import RunState, StageState, read_events
from loop.store.layout import RunFolder, all_runs, runs_in, stage_name
from loop.store.measures import WARNINGS, headline, live, warning_lines
from loop.store.progress import read_progress
from loop.store.seen import seen_state
from rewards.curation.ledger import line

HELP = "show where a run stands and what it has measured"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `status`."""
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="the run's name; without it, the only run, or the lines of `loop list` where there are several",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object with everything that was measured")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    runs = runs_folder(options)
    if options.run is None and len(runs_in(runs)) > 1:
        show(all_runs(runs), options.json)
        return 0
    folder = RunFolder(find_run(runs, options.run))
    state = seen_state(folder, read_events(folder.journal))
    if options.json:
        say(json.dumps(as_json(folder.name, state), indent=2, ensure_ascii=False))
    else:
        say("\n".join(_lines(folder, state)))
    return 0


def as_json(name: str, state: RunState) -> dict[str, Any]:
    """The object of `status --json`: every stage of every round. Stages that have not started are `pending`."""

    def rows(names: Iterable[str], known: dict[str, StageState]) -> dict[str, Any]:
        order = [*names, *(name for name in known if name not in names)]
        return {name: known.get(name, StageState()).model_dump(exclude={"committed"}) for name in order}

    setup, stages = ([stage.name for stage in group] for group in (SETUP_STAGES, ROUND_STAGES))
    ledger = run_ledger(state)
    numbers = range(max([state.num_rounds, *(number + 1 for number in state.rounds)]))
    return {
        "run": name,
        "state": state.state,
        "rounds": [{"round": n, "stages": rows(stages, state.rounds.get(n, {}))} for n in numbers],
        "setup": rows(setup, state.setup),
        "ledger": ledger.as_json() if ledger else None,
        "dashboard": state.dashboard,
        "message": state.message,
    }


def _lines(folder: RunFolder, state: RunState) -> list[str]:
    """One line for the run, one for each stage that has started, one for each warning of a stage, and the ledger in one line."""
    lines = [f"{folder.name}: {state.state}, {state.num_rounds} rounds"]
    lines += [state.message] if state.message else []
    for round_number, stage, row in state.stages():
        seconds = f"{row.seconds:6.1f} s" if row.seconds is not None else " " * 8
        shown, warnings = headline(stage, row.metrics), warning_lines(row.metrics)
        if row.state == "running":
            now = read_progress(folder.work(stage, round_number).progress)
            shown = f"{now.done} of {now.total}  {live(now.metrics)}" if now.total else ""
            warnings = warning_lines({WARNINGS: [now.warning]} if now.warning else {})
        lines.append(f"{stage_name(stage, round_number):<20} {row.state:<11} {seconds}  {shown}".rstrip())
        lines += warnings
    ledger = run_ledger(state)
    return lines + ([line(ledger.sources)] if ledger else [])
