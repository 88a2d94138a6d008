"""What a person sees while a run works: a live view of the running stage, and one line for each finished stage. Nothing else prints.

On a pipe there are only the lines, without colors. The environment variables NO_COLOR and FORCE_COLOR are respected (by rich). Must
never import torch or Ray.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from loop.live_view import LiveView
from loop.printing import printable
from loop.store.journal import RunState
from loop.store.measures import headline, warning_lines
from loop.store.progress import Progress

WIDEST = 1 << 20
"""Wider than any table."""


class PipedConsole(Console):
    """rich's console. Where the reader of a pipe has ended, rich itself would end the process with exit code 1."""

    def on_broken_pipe(self) -> None:
        """Print nothing any more, and raise the error that commands know."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise BrokenPipeError


class Terminal:
    """Writes to standard output. is_quiet: only warnings and tables."""

    def __init__(self, is_quiet: bool = False) -> None:
        self.is_quiet = is_quiet
        self.console = PipedConsole(file=sys.stdout, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one message. Markup and emoji codes in it are shown as they are."""
        if not self.is_quiet:
            self._print(text)

    @contextmanager
    def stage(self, name: str, run: str = "", state: RunState | None = None) -> Iterator[Callable[[Progress], None]]:
        """Show a live view while the block runs. The block is given a function that takes the progress of the stage.

        Where there is no live view, a warning is printed once. There is none on a pipe, also if FORCE_COLOR asks for colors there, and none
        in a terminal that cannot move its cursor (TERM=dumb). state: where the run is, for the stage of a run. run: its name.
        """
        if self.is_quiet or not (self.console.is_interactive and self.console.file.isatty()):
            told: set[str] = set()

            def tell(now: Progress) -> None:
                if now.warning and now.warning not in told:
                    told.add(now.warning)
                    self._print(f"{name}, {now.done} of {now.total}: {now.warning}")

            yield tell
            return
        view = LiveView(name, run, state)
        with Live(view, console=self.console, transient=True, redirect_stdout=False, redirect_stderr=False):
            yield view.look

    def stage_done(self, name: str, seconds: float, metrics: dict[str, Any]) -> None:
        """Print the line of a finished stage, and a line for each of its warnings."""
        warnings = warning_lines(metrics)
        if not self.is_quiet or warnings:
            self._print(f"{name:<20} {seconds:6.1f} s  {headline(name.rsplit('/', 1)[-1], metrics)}".rstrip())
        for line in warnings:
            self._print(line)

    def _print(self, text: str) -> None:
        self.console.print(printable(text), markup=False, emoji=False)

    def table(self, title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table. Its first column is text, and the others are numbers. rich would cut its cells off to fit it into the terminal;
        here a table is as wide as it has to be, and a narrow terminal breaks its lines."""
        table = Table(box=SIMPLE_HEAD, title=Text(printable(title)), title_justify="left")
        for number, header in enumerate(headers):
            table.add_column(Text(printable(header)), justify="right" if number else "left")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        options = self.console.options.update(max_width=WIDEST)
        wide = options.update(max_width=Measurement.get(self.console, options, table).maximum)
        for line in Segment.split_lines(self.console.render(table, wide)):
            text = Text.assemble(*((part.text, part.style or "") for part in line))
            text.rstrip()
            self.console.print(text)
