"""The journal of a run, and what it says: `RunState` is a pure fold over its events.

One JSON object a line, fsynced before the next step is taken. A torn last line (power went while it was written) is
dropped and cut off before the next append; a torn line before the last is damage and is named.
"""

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from configs.errors import UserError

State = Literal["pending", "running", "done", "waiting", "interrupted", "failed"]


ENDINGS: dict[str, State] = {"run_done": "done", "waiting": "waiting", "interrupted": "interrupted", "failed": "failed"}


class Event(BaseModel):
    """Something that happened. `round` is None for the stages before round 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    event: Literal["run_started", "stage_started", "stage_committed", "run_done", "waiting", "interrupted", "failed"]
    at: str = ""
    num_rounds: int | None = None
    round: int | None = None
    stage: str | None = None
    key: str | None = None
    digest: str | None = None
    seconds: float | None = None
    metrics: dict[str, Any] | None = None
    message: str | None = None
    dashboard: str | None = None


class StageState(BaseModel):
    """Where one stage stands."""

    state: State = "pending"
    seconds: float | None = None
    digest: str | None = None
    metrics: dict[str, Any] = {}


class RunState(BaseModel):
    """Where a run stands."""

    state: State = "pending"
    num_rounds: int = 0
    setup: dict[str, StageState] = {}
    rounds: dict[int, dict[str, StageState]] = {}
    dashboard: str | None = None
    message: str | None = None


class Journal:
    """Appends events to a file that one process writes."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, event: str, **fields: Any) -> None:
        line = Event(event=event, at=datetime.now(UTC).isoformat(timespec="seconds"), **fields)  # type: ignore[arg-type]
        self._cut_torn_line()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json(exclude_none=True) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def state(self) -> RunState:
        return fold(read_events(self.path))

    def _cut_torn_line(self) -> None:
        if self.path.exists() and not (text := self.path.read_bytes()).endswith(b"\n") and text:
            os.truncate(self.path, text.rfind(b"\n") + 1)


def read_events(path: Path) -> list[Event]:
    """All whole events. Raises UserError for a damaged line that is not the last."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    events = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            events.append(Event.model_validate_json(line))
        except ValueError:
            raise UserError(
                f"line {number} of the journal is damaged",
                str(path),
                "restore the file, or delete that line: committed stages are found again",
            ) from None
    return events


def fold(events: Iterable[Event]) -> RunState:
    """The state that the events add up to."""
    run = RunState()
    for event in events:
        run.message = event.message
        if event.event == "run_started":
            run.state, run.num_rounds, run.dashboard = "running", event.num_rounds or 0, event.dashboard
        elif event.event in ("stage_started", "stage_committed"):
            stages = run.setup if event.round is None else run.rounds.setdefault(event.round, {})
            done = event.event == "stage_committed"
            stages[event.stage or ""] = StageState(
                state="done" if done else "running", seconds=event.seconds, digest=event.digest, metrics=event.metrics or {}
            )
        else:
            run.state = ENDINGS[event.event]
            for stages in (run.setup, *run.rounds.values()):
                for stage in stages.values():
                    if stage.state == "running":
                        stage.state = run.state
    return run


def to_json(name: str, state: RunState, setup: Iterable[str], stages: Iterable[str]) -> dict[str, Any]:
    """The object of `status --json`: every stage of every round, those not yet begun as `pending`."""

    def rows(names: Iterable[str], known: dict[str, StageState]) -> dict[str, Any]:
        order = [*names, *(name for name in known if name not in names)]
        return {name: known.get(name, StageState()).model_dump() for name in order}

    stages = tuple(stages)
    numbers = range(max([state.num_rounds, *(number + 1 for number in state.rounds)]))
    return {
        "run": name,
        "state": state.state,
        "rounds": [{"round": n, "stages": rows(stages, state.rounds.get(n, {}))} for n in numbers],
        "setup": rows(tuple(setup), state.setup),
        "dashboard": state.dashboard,
        "message": state.message,
    }
