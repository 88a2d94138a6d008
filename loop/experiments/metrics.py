"""Paths to the metrics of a run, for example `evaluate.gold` or `select.judged.features.pairwise`.

A path names the stage, and then the names inside its metrics. It leads to a number, or to a summary, of which the mean
(or the accuracy) is taken. Must never import torch or Ray.
"""

from typing import Any

from configs.errors import UserError, did_you_mean
from loop.round import LABELER, PIVOT, PMP, SETUP_STAGES, STAGES
from loop.store.estimates import is_number, mean_in
from loop.store.journal import RunState
from loop.store.measures import MEASURES, find_measure

SEE = "docs/metrics.md explains every metric, and `loop status RUN --json` shows those of a run"


def check_path(path: str, place: str) -> None:
    """Raises UserError for a path whose stage or metric does not exist. What is inside a metric is known only when it was measured."""
    stage, _, rest = path.partition(".")
    names = list(dict.fromkeys(known.name for known in STAGES))
    if stage not in names:
        raise UserError(f"the metric {path!r} names no stage{did_you_mean(stage, names)}", place, f"begin with one of: {', '.join(names)}")
    metric = rest.split(".")[0]
    if find_measure(metric) is None:
        raise UserError(f"there is no metric {metric!r} (in {path!r}){did_you_mean(metric, MEASURES)}", place, SEE)


def is_by_round(path: str) -> bool:
    """Whether the stage of the path is made in every round. The others are made once, before round 0."""
    return path.partition(".")[0] not in [stage.name for stage in (*SETUP_STAGES, PIVOT, PMP, LABELER)]


def read_metric(state: RunState, path: str, round_number: int) -> float | None:
    """The number at the path in a run's metrics at a round. None where the run does not have it."""
    stage, *names = path.split(".")
    found: Any = state.stage(stage, round_number if is_by_round(path) else None).metrics
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    if isinstance(found, dict):
        return mean_in(found)
    return float(found) if is_number(found) else None


def check_found(states: list[RunState], paths: list[str], last_rounds: list[int]) -> None:
    """Raises UserError for a path that leads to a number in none of the runs, each read at its last round."""
    for path in paths:
        if all(read_metric(state, path, r) is None for state, r in zip(states, last_rounds, strict=True)):
            raise UserError(
                f"no run has a number at {path!r}", "the metrics of the experiment", f"{_there(states, path, last_rounds)}{SEE}"
            )


def _there(states: list[RunState], path: str, last_rounds: list[int]) -> str:
    """What the stage of the path has measured, as words for a message."""
    stage = path.partition(".")[0]
    rounds = last_rounds if is_by_round(path) else [None] * len(states)
    names = {name for state, r in zip(states, rounds, strict=True) for name in state.stage(stage, r).metrics}
    return f"{stage} has: {', '.join(sorted(names))}; " if names else ""
