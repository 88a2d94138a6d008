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
    "policy": ("objective/scores_first_updates", "objective/scores_last_updates", "objective/kl_last_updates"),
    "sample": ("samples", "different", "length"),
    "label": ("comparisons", "heldout", "ties", "left_out"),
    "retrain": ("pairs", "accuracy_fresh_before", "accuracy_fresh", "accuracy_fresh_gain"),
    "select": ("selector", "reward_model", "selector_over_reward_model", "longest"),
    "evaluate": ("gold", "gold_over_sft", "gold_over_last", "gold_unseen_facts", "proxy_gain", "kl", "length"),
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
            difference = "_over_" in name or name.endswith("_gain")
            words.append(f"{name.removeprefix('objective/')} {_short(value, '+.3f' if difference else '.2f')}")
    return ", ".join(words)


def _short(value: Any, form: str = ".2f") -> str:
    if isinstance(value, dict):
        if "pairwise" in value:
            return _short(value["pairwise"], form)
        if "accuracy" in value:
            return _with_error(value["accuracy"], value["standard_error"], ".3f")
        if "mean" in value:
            return _with_error(value["mean"], value["standard_error"], form)
        return "; ".join(f"{count} x {what}" for what, count in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _with_error(mean: float | None, error: float | None, form: str) -> str:
    if mean is None:
        return "-"
    return f"{mean:{form}}" if error is None else f"{mean:{form}} ± {error:{form.removeprefix('+')}}"
