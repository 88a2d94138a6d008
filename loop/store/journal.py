"""The journal of a run, and the state that its events add up to. `RunState` is a pure fold over the events.

Each line is one JSON object whose last field is a checksum of the rest. It is synced to disk before the next step is taken. A torn
last line, which a power cut can leave, is ignored and cut off before the next append. A torn line before the last is damage, and the
message names it. The process that writes reads the file once and keeps the state in memory, so a stage of a long run costs no more
than a stage of a short one. Must never import torch or Ray.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from configs.errors import UserError

State = Literal["pending", "running", "done", "waiting", "interrupted", "failed"]
ENDINGS: dict[str, State] = {"run_done": "done", "waiting": "waiting", "interrupted": "interrupted", "failed": "failed"}


class Event(BaseModel):
    """One line: something that happened. `round` is None for the stages before round 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    event: Literal["run_started", "stage_started", "worker_lost", "stage_committed", "run_done", "waiting", "interrupted", "failed"]
    at: str = ""
    num_rounds: int | None = None
    round: int | None = None
    stage: str | None = None
    key: str | None = None
    digest: str | None = None
    manifest: str | None = None
    config: str | None = None
    seconds: float | None = None
    metrics: dict[str, Any] | None = None
    message: str | None = None
    dashboard: str | None = None
    prometheus: str | None = None
    """Where Prometheus can read the metrics of the run while it runs."""
    resumed: str | None = None
    startup: dict[str, float] | None = None
    copied_from: str | None = None
    """Of a committed stage: the run that made it, where it was not made here. `seconds` are those that it took there."""


class StageState(BaseModel):
    """The state of one stage."""

    state: State = "pending"
    restarts: int = 0
    """How often workers were lost and replaced while the stage was made."""
    seconds: float | None = None
    digest: str | None = None
    metrics: dict[str, Any] = {}
    committed: Event | None = None
    """The last line about a committed directory of the stage. A new attempt does not clear it."""


class RunState(BaseModel):
    """The state of a run."""

    state: State = "pending"
    num_rounds: int = 0
    setup: dict[str, StageState] = {}
    rounds: dict[int, dict[str, StageState]] = {}
    dashboard: str | None = None
    prometheus: str | None = None
    configs: list[str] = []
    """SHA-256 of the `config.yaml` of each start, in order."""
    message: str | None = None

    def stage(self, name: str, round_number: int | None) -> StageState:
        """The state of one stage; `pending` where the journal does not know it."""
        rows = self.setup if round_number is None else self.rounds.get(round_number, {})
        return rows.get(name, StageState())

    def rows(self, round_number: int | None) -> dict[str, StageState]:
        """The stages of a round, to be changed; an empty table is added for a round that is new."""
        return self.setup if round_number is None else self.rounds.setdefault(round_number, {})

    def stages(self) -> Iterator[tuple[int | None, str, StageState]]:
        """(round, name, state) of every stage that the journal knows. The stages before round 0 come first."""
        numbered: list[tuple[int | None, dict[str, StageState]]] = [(None, self.setup), *sorted(self.rounds.items())]
        for round_number, rows in numbered:
            for name, row in rows.items():
                yield round_number, name, row


class Journal:
    """Appends events to the file and keeps the state that they add up to. Only the process that holds the run's lock may use it."""

    def __init__(self, path: Path):
        self.path = path
        self._state: RunState | None = None

    def append(self, event: str, **fields: Any) -> None:
        """Write one event, with the time, and sync it to disk."""
        line = Event(event=event, at=datetime.now(UTC).isoformat(timespec="seconds"), **fields)  # type: ignore[arg-type]
        state = self.state()
        self._cut_torn_line()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_with_check(line.model_dump_json(exclude_none=True)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        _apply(state, line)

    def state(self) -> RunState:
        """The state of the run. The file is read at the first call."""
        if self._state is None:
            self._state = fold(read_events(self.path))
        return self._state

    def _cut_torn_line(self) -> None:
        if not ends_whole(self.path):
            os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)


def read_events(path: Path) -> list[Event]:
    """All whole events. Raises UserError for a damaged line before the last, and for a line that this version does not know."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    events = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            body = _without_check(line)
        except ValueError:
            raise UserError(
                f"line {number} of the journal is damaged",
                str(path),
                "restore the file, or delete that line; committed stages will be found again",
            ) from None
        try:
            events.append(Event.model_validate_json(body))
        except ValueError:  # the checksum is right, so the line was written like this
            raise UserError(
                f"line {number} of the journal was written by another version of loop", str(path), "use the version that wrote it"
            ) from None
    return events


def ends_whole(path: Path) -> bool:
    """Whether the last line is whole. Reads one byte."""
    if not path.exists() or not path.stat().st_size:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _with_check(line: str) -> str:
    return f'{line[:-1]},"check":"{hashlib.sha256(line.encode()).hexdigest()[:16]}"}}'


def _without_check(line: bytes) -> bytes:
    """The line before `_with_check`. Raises ValueError where a byte of it was changed."""
    body, mark, check = line.rpartition(b',"check":"')
    body += b"}"
    if not mark or check != hashlib.sha256(body).hexdigest()[:16].encode() + b'"}':
        raise ValueError("checksum")
    return body


def fold(events: Iterable[Event]) -> RunState:
    """The state that the events add up to."""
    run = RunState()
    for event in events:
        _apply(run, event)
    return run


def _apply(run: RunState, event: Event) -> None:
    """Change the state by one event."""
    run.message = event.message
    if event.event == "run_started":
        run.state, run.num_rounds = "running", event.num_rounds or 0
        run.dashboard, run.prometheus = event.dashboard, event.prometheus
        run.configs += [event.config] if event.config else []
    elif event.event in ("stage_started", "stage_committed"):
        done = event.event == "stage_committed"
        before = run.stage(event.stage or "", event.round)
        run.rows(event.round)[event.stage or ""] = StageState(
            state="done" if done else "running",
            restarts=before.restarts if before.state != "done" else 0,
            seconds=event.seconds,
            digest=event.digest,
            metrics=event.metrics or {},
            committed=event if done else before.committed,
        )
    elif event.event == "worker_lost":
        # The line about the stage's start may be missing: the message about a damaged line advises to delete that line.
        run.rows(event.round).setdefault(event.stage or "", StageState(state="running")).restarts += 1
    else:
        run.state = ENDINGS[event.event]
        for _, _, stage in run.stages():
            if stage.state == "running":  # at run_done, its last line was deleted
                stage.state = "pending" if run.state == "done" else run.state
