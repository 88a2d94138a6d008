"""What a person sees while a run works: a progress bar with an estimate, and one line for each finished stage. Nothing else prints.

On a pipe there are no bars and no colours. The environment variable NO_COLOR is respected (by rich). Must never import torch or Ray.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from loop.printing import printable
from loop.store.measures import headline, live, warning_lines
from loop.store.progress import Progress as StageProgress

PIPE_WIDTH = 200
"""How wide a table may be where the output is no terminal, so that nothing in it is cut off."""


class Terminal:
    """Writes to standard output."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        if not self.console.is_terminal:
            self.console.width = PIPE_WIDTH

    def say(self, text: str) -> None:
        """Print one message. Markup and emoji codes in it are shown as they are."""
        self.console.print(printable(text), markup=False, emoji=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[StageProgress], None]]:
        """Show a progress bar while the block runs. The block is given a function that takes the progress of the stage."""
        if not self.console.is_terminal:
            yield lambda now: None
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}", markup=False),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(name, total=None, metrics="")
            yield lambda now: progress.update(task, completed=now.done, total=now.total or None, metrics=live(now.metrics))

    def stage_done(self, name: str, seconds: float, metrics: dict[str, Any]) -> None:
        """Print the line of a finished stage, and a line for each of its warnings."""
        self.say(f"{name:<20} {seconds:6.1f} s  {headline(name.rsplit('/', 1)[-1], metrics)}".rstrip())
        for line in warning_lines(metrics):
            self.say(line)

    def table(self, title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table. Its first column is text, and the others are numbers."""
        table = Table(box=SIMPLE_HEAD, title=Text(printable(title)), title_justify="left")
        for number, header in enumerate(headers):
            table.add_column(Text(printable(header)), justify="right" if number else "left")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        self.console.print(table)
