"""What a person sees while a run goes on: a progress bar with an estimate, one line a finished stage. Nothing else prints.

On a pipe there are no bars and no colours, one line a stage. NO_COLOR is respected (by rich).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from loop.printing import printable

HEADLINES = {
    "data": ("pairs", "heldout_pairs", "skipped"),
    "base": ("loss",),
    "filter": ("pairs", "heldout_pairs", "heldout_prompts", "left_out"),
    "sft": ("loss",),
    "labeler": ("accuracy_heldout", "shorter_wins"),
    "baseline": ("gold", "gold_unseen_facts", "length"),
    "reward": ("accuracy_heldout",),
    "policy": ("objective/scores_first", "objective/scores", "objective/kl"),
    "sample": ("samples", "different", "length"),
    "label": ("comparisons", "heldout", "ties", "left_out"),
    "retrain": ("pairs", "accuracy_fresh_before", "accuracy_fresh"),
    "select": ("selector", "reward_model", "longest", "random"),
    "evaluate": ("gold", "gold_unseen_facts", "proxy_score", "kl", "length"),
}
"""The metrics that a finished stage's line shows; `status --json` has all of them."""


class Terminal:
    """Writes to standard output."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        self.console.print(printable(text), markup=False, emoji=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """A progress bar while a stage runs; the callback takes (done, total)."""
        if not self.console.is_terminal:
            yield lambda done, total: None
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(name, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total or None)

    def stage_done(self, name: str, seconds: float, metrics: dict[str, Any]) -> None:
        self.say(f"{name:<20} {seconds:6.1f} s  {headline(name.rsplit('/', 1)[-1], metrics)}".rstrip())


def headline(stage: str, metrics: dict[str, Any]) -> str:
    """The few numbers that tell how a stage went."""
    words = []
    for name in HEADLINES.get(stage, ()):
        value = metrics.get(name)
        if value not in (None, {}):
            words.append(f"{name.removeprefix('objective/')} {_short(value)}")
    return ", ".join(words)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        if "mean" in value:
            return "-" if value["mean"] is None else f"{value['mean']:.2f} ± {value['standard_error']:.2f}"
        if "pairwise" in value:
            return _short(value["pairwise"])
        if "accuracy" in value:
            return "-" if value["accuracy"] is None else f"{value['accuracy']:.3f} ± {value['standard_error']:.3f}"
        return "; ".join(f"{count} x {what}" for what, count in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)
