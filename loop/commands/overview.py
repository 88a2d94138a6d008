"""All runs of a folder, one line each: what `list` prints, and `status` without a name where there are several runs.

Must never import rich, torch or Ray, so that `status` answers at once.
"""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from configs.errors import UserError
from loop.printing import say
from loop.round import BASELINE, EVALUATE, RETRAIN, REWARD
from loop.store.estimates import estimate, estimates
from loop.store.journal import RunState, read_events
from loop.store.layout import RunFolder, stage_name
from loop.store.progress import Progress, read_progress
from loop.store.seen import seen_state

HEADERS = ("run", "state", "rounds", "stage", "last figure", "started")
HINT = "`loop status RUN` says more about one of them."


@dataclass(frozen=True)
class Overview:
    """A run in short.

    state: as in `RunState`, or `damaged` if its journal cannot be read; nothing else but the message is known then. rounds: how many are
    evaluated. stage: the one that started last; done and total: how far it is, total is 0 where that is not known.
    """

    run: str
    state: str
    rounds: int = 0
    num_rounds: int | None = None
    stage: str | None = None
    done: int = 0
    total: int = 0
    figure: str | None = None
    started: str | None = None
    message: str | None = None

    def cells(self) -> list[str]:
        """The cells of its line, under `HEADERS`."""
        rounds = "" if self.num_rounds is None else f"{self.rounds} of {self.num_rounds}"
        how_far = f"  {self.done} of {self.total}" if self.total else ""
        return [self.run, self.state, rounds, f"{self.stage or ''}{how_far}", self.figure or "", self.started or ""]


def show(runs: dict[str, RunFolder], as_json: bool) -> None:
    """Print the runs: a line for each, or one JSON object."""
    found = [look(name, folder) for name, folder in runs.items()]
    if as_json:
        say(json.dumps({"runs": [asdict(row) for row in found]}, indent=2, ensure_ascii=False))
    else:
        say("\n".join([*aligned([HEADERS, *(row.cells() for row in found)]), HINT]))


def look(name: str, folder: RunFolder) -> Overview:
    """A run in short."""
    try:
        events = read_events(folder.journal)
    except UserError as error:
        return Overview(name, "damaged", message=str(error))
    state = seen_state(folder, events)
    found = Overview(name, state.state, len(evaluated(state)), state.num_rounds, message=state.message)
    found = replace(found, figure=last_figure(state), started=events[0].at if events else None)
    for number, stage, row in state.stages():
        if row.state != "pending":
            now = read_progress(folder.work(stage, number).progress) if row.state == "running" else Progress()
            found = replace(found, stage=stage_name(stage, number), done=now.done, total=now.total)
    return found


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines whose columns stand below each other."""
    wide = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, wide, strict=True)).rstrip() for row in rows]


def _width(text: str) -> int:
    """How many places a text takes in a terminal: marks above and below a letter take none, and Chinese letters two."""
    letters = (letter for letter in text if unicodedata.category(letter) not in ("Mn", "Me"))
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in letters)


def evaluated(state: RunState) -> list[int]:
    """The rounds whose policy was evaluated."""
    return [r for r in sorted(state.rounds) if state.stage(EVALUATE.name, r).metrics]


def last_figure(state: RunState) -> str | None:
    """The last true reward, else the last win rate over the SFT policy, else the last accuracy of a reward model."""
    for r in reversed(evaluated(state)):
        metrics = state.stage(EVALUATE.name, r).metrics
        if gold := estimate(metrics.get("gold")):
            return f"gold {gold.with_error()}"
        if rate := estimates(metrics.get("win_rate")).get("sft"):
            return f"win rate {rate.with_error('.0%')}"
    if gold := estimate(state.stage(BASELINE.name, None).metrics.get("gold")):
        return f"gold {gold.with_error()} (SFT)"
    for r in sorted(state.rounds, reverse=True):
        for stage, metric in ((RETRAIN, "accuracy_fresh"), (REWARD, "accuracy_heldout")):
            if accuracy := estimate(state.stage(stage.name, r).metrics.get(metric)):
                return f"accuracy {accuracy.with_error('.0%')}"
    return None
