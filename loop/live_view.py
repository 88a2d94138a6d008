"""The live view of a run in a terminal: where the run is, how long it still takes, its figures and its newest sample.

    embedded   round-001, 2 of 3   the run takes about 4:10 more
    reward ✓  policy  sample  answer  label  retrain  select  keep  evaluate
    ━━━━━━━━━━━━━━╸━━━━━━━━━━━━━━━  18 of 40   1.9 steps/s   0:09, about 0:12 more
    scores 1.24, kl 3.10, entropy 0.42, response_length 7.90
      score 1.93
      What colour is the mango?
      The mango is yellow.

Texts of samples are shown as text: no markup, no control characters, and never more than a few lines. Must never import torch or Ray.
"""

import time
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loop.printing import printable
from loop.round import ROUND_STAGES, SETUP_STAGES
from loop.store.journal import RunState
from loop.store.measures import live
from loop.store.pace import Pace
from loop.store.progress import Progress

BAR_WIDTH = 30
SAMPLE_LINES, SAMPLE_LETTERS = 6, 2000
"""The most that is shown of a sample. What does not fit into a line is cut off there."""


class LiveView:
    """The view of one running stage. rich draws it again a few times a second.

    state: the run so far, if there is a run. run: its name.
    """

    def __init__(self, stage: str, run: str = "", state: RunState | None = None):
        self.stage, self.run, self.state = stage, run, state
        self.now, self.pace, self._began = Progress(), Pace(), time.monotonic()
        self._text = ""

    def look(self, now: Progress) -> None:
        """Take note of the progress of the stage."""
        self.now = now
        self.pace.look(now)
        self._text = now.texts[-1] if now.texts else self._text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        place, _, name = self.stage.rpartition("/")
        if self.state and place:
            yield _line(f"{self.run}   {_where(place, self.state)}   {self._run_left(place, name)}".rstrip())
            yield _stages(place, name, self.state, "+" if options.ascii_only else "✓")
        else:
            yield _line(self.stage)
        yield self._bar()
        if figures := live(self.now.metrics):
            yield _line(figures)
        if self.now.warning:
            yield Text(printable(f"warning: {self.now.warning}"), style="yellow")
        yield from _sample(self._text)

    def _bar(self) -> Table:
        now, spent = self.now, time.monotonic() - self._began
        pace, left = self.pace.steps_per_second, self.pace.seconds_left
        words = [f"{now.done} of {now.total}"] if now.total else []
        words += [f"{pace:.3g} steps/s"] if pace else []
        words += [f"{clock(spent)}{f', about {clock(left)} more' if left is not None else ''}"]
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        grid.add_row(ProgressBar(now.total or None, now.done, width=BAR_WIDTH, pulse=not now.total), Text("   ".join(words)))
        return grid

    def _run_left(self, place: str, name: str) -> str:
        assert self.state is not None
        seconds = seconds_left(self.state, place, name, time.monotonic() - self._began, self.pace.seconds_left)
        return f"the run takes about {clock(seconds)} more" if seconds is not None else ""


def seconds_left(state: RunState, place: str, stage: str, spent: float, by_pace: float | None) -> float | None:
    """How long the run still takes, if its remaining stages take as long as in the newest round that has finished them.

    stage: the one that is running, since `spent` seconds, and takes `by_pace` more seconds by its own pace. None while some stage was not
    finished in any round, as in the first one.
    """
    took: dict[str, float] = {}
    for _, rows in sorted(state.rounds.items()):
        took |= {name: row.seconds for name, row in rows.items() if row.state == "done" and row.seconds is not None}
    round_number = int(place.rpartition("-")[2]) if place.startswith("round-") else -1
    names = _names_of_a_round(state)
    if not names or stage not in took or not all(name in took for name in names):
        return None
    now = max(took[stage] - spent, by_pace or 0.0)
    here = names[names.index(stage) + 1 :] if stage in names else []
    later = state.num_rounds - round_number - 1
    return now + sum(took[name] for name in here) + later * sum(took[name] for name in names)


def clock(seconds: float) -> str:
    """Seconds as `0:09`, `12:30` or `3:05:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _where(place: str, state: RunState) -> str:
    if place == "setup":
        return f"before round 0 of {state.num_rounds} rounds"
    return f"{place}, {int(place.rpartition('-')[2]) + 1} of {state.num_rounds}"


def _stages(place: str, running: str, state: RunState, mark: str) -> Text:
    """The stages of the round, or those before round 0: done, running, still to come."""
    is_setup = place == "setup"
    rows = state.setup if is_setup else state.rounds.get(int(place.rpartition("-")[2]), {})
    names = [stage.name for stage in SETUP_STAGES] if is_setup else _names_of_a_round(state)
    line = Text(no_wrap=True, overflow="ellipsis")
    for name in [*names, *(name for name in rows if name not in names)]:
        done = name != running and name in rows and rows[name].state == "done"
        line.append(f"{name} {mark}" if done else name, style="green" if done else "bold" if name == running else "dim")
        line.append("  ")
    return line


def _names_of_a_round(state: RunState) -> list[str]:
    """The stages that a round has, in order: those of the round before. Of the first round, those that only some configs ask for are known
    when they have begun."""
    newest = max(state.rounds, default=0)
    begun = list(state.rounds.get(newest, {}))
    usual = (stage.name for stage in ROUND_STAGES)
    return list(state.rounds.get(newest - 1, {})) or [*begun, *(name for name in usual if name not in begun)]


def _sample(text: str) -> Iterable[Text]:
    """The lines of a sample. A line that is too long for the terminal is cut."""
    lines = printable(text[:SAMPLE_LETTERS]).splitlines()
    shown = lines if len(lines) <= SAMPLE_LINES else [*lines[: SAMPLE_LINES - 1], "..."]
    return [_line(f"  {line}", "dim") for line in shown]


def _line(text: str, style: str = "") -> Text:
    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")
