"""The journal of a run, and what it says: `RunState` is a pure fold over its events.

One JSON object a line, fsynced before the next step is taken; its last field is a checksum of the rest. A torn last line
(power went while it was written) is dropped and cut off before the next append; a torn line before the last is damage and
is named. The process that writes reads the file once and keeps the state in memory, so a long run costs no more a stage than a short one.
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
    """Something that happened. `round` is None for the stages before round 0."""

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
    resumed: str | None = None
    startup: dict[str, float] | None = None


class StageState(BaseModel):
    """Where one stage stands."""

    state: State = "pending"
    restarts: int = 0
    """Workers that were lost and replaced while the stage was made."""
    seconds: float | None = None
    digest: str | None = None
    metrics: dict[str, Any] = {}
    committed: Event | None = None
    """The last line that vouches for a directory of the stage. It outlasts the start of another attempt."""


class RunState(BaseModel):
    """Where a run stands."""

    state: State = "pending"
    num_rounds: int = 0
    setup: dict[str, StageState] = {}
    rounds: dict[int, dict[str, StageState]] = {}
    dashboard: str | None = None
    configs: list[str] = []
    """SHA-256 of the `config.yaml` of each start, the last one's at the end."""
    message: str | None = None

    def stage(self, name: str, round_number: int | None) -> StageState:
        """Where one stage stands; `pending` if the journal does not know it."""
        rows = self.setup if round_number is None else self.rounds.get(round_number, {})
        return rows.get(name, StageState())

    def rows(self, round_number: int | None) -> dict[str, StageState]:
        """The stages of a round, to be changed; an empty table is added for a round that is new."""
        return self.setup if round_number is None else self.rounds.setdefault(round_number, {})

    def stages(self) -> Iterator[tuple[int | None, str, StageState]]:
        """(round, name, state) of every stage that the journal knows, those before round 0 first."""
        numbered: list[tuple[int | None, dict[str, StageState]]] = [(None, self.setup), *sorted(self.rounds.items())]
        for round_number, rows in numbered:
            for name, row in rows.items():
                yield round_number, name, row


class Journal:
    """Appends events to a file that one process writes, and keeps the state that they add up to."""

    def __init__(self, path: Path):
        self.path = path
        self._state: RunState | None = None

    def append(self, event: str, **fields: Any) -> None:
        line = Event(event=event, at=datetime.now(UTC).isoformat(timespec="seconds"), **fields)  # type: ignore[arg-type]
        state = self.state()
        self._cut_torn_line()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_with_check(line.model_dump_json(exclude_none=True)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        _apply(state, line)

    def state(self) -> RunState:
        """Where the run stands. The file is read at the first call, so this may only be asked by the process that holds the run's lock."""
        if self._state is None:
            self._state = fold(read_events(self.path))
        return self._state

    def _cut_torn_line(self) -> None:
        if not ends_whole(self.path):
            os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)


def read_events(path: Path) -> list[Event]:
    """All whole events. Raises UserError for a damaged line that is not the last, and for one that this version does not know."""
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
                "restore the file, or delete that line: committed stages are found again",
            ) from None
        try:
            events.append(Event.model_validate_json(body))
        except ValueError:  # its checksum is right, so it was meant
            raise UserError(
                f"line {number} of the journal was written by another version of loop", str(path), "use the version that wrote it"
            ) from None
    return events


def ends_whole(path: Path) -> bool:
    """Whether the last line was written to its end. Reads one byte."""
    if not path.exists() or not path.stat().st_size:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _with_check(line: str) -> str:
    return f'{line[:-1]},"check":"{hashlib.sha256(line.encode()).hexdigest()[:16]}"}}'


def _without_check(line: bytes) -> bytes:
    """The line as it was before `_with_check`. Raises ValueError where a byte of it was changed."""
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
        run.state, run.num_rounds, run.dashboard = "running", event.num_rounds or 0, event.dashboard
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
        # The line about the stage's start may have been deleted, as the message about a damaged line advises.
        run.rows(event.round).setdefault(event.stage or "", StageState(state="running")).restarts += 1
    else:
        run.state = ENDINGS[event.event]
        for _, _, stage in run.stages():
            if stage.state == "running":  # at run_done: its line is missing, and only its own line makes a stage done
                stage.state = "pending" if run.state == "done" else run.state


def to_json(name: str, state: RunState, setup: Iterable[str], stages: Iterable[str]) -> dict[str, Any]:
    """The object of `status --json`: every stage of every round, those not yet begun as `pending`."""

    def rows(names: Iterable[str], known: dict[str, StageState]) -> dict[str, Any]:
        order = [*names, *(name for name in known if name not in names)]
        return {name: known.get(name, StageState()).model_dump(exclude={"committed"}) for name in order}

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
