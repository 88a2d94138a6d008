"""The real driver on a real run directory, with a fleet that computes nothing: each stage's payload is a few bytes of its own key.

What the driver does around a stage (keys, commits, journal, checks) is the same as in a real run, and a run of 200 rounds takes seconds.
"""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from configs import load_config
from loop.driver import Driver
from loop.round import BASE
from loop.store.base_files import RECORD, hash_files


class SilentTerminal:
    """Keeps what would be printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def stage(self, name: str) -> Any:
        return nullcontext(lambda done, total: None)

    def stage_done(self, name: str, seconds: float, metrics: dict[str, Any]) -> None:
        self.say(name)


class FakeDriver(Driver):
    """A driver whose stages are made at once. `made`: the stages that were made, in order."""

    def __init__(self, folder: Path, *overrides: str, num_rounds: int = 1):
        super().__init__(load_config(overrides=overrides, name=folder.name, num_rounds=num_rounds), folder, SilentTerminal())  # type: ignore[arg-type]
        self.made: list[str] = []
        self.content = "the same in every run"

    def digests(self) -> dict[str, str | None]:
        """The digest of every stage, as the journal tells it."""
        return {f"{round_number}/{name}": row.digest for round_number, name, row in self.journal.state().stages()}

    def _run_on_fleet(self, stage: Any, round_number: Any, inputs: Any, work: Path, payload: Path, name: str) -> dict[str, Any]:
        self.made.append(name)
        if stage == BASE and self.config.base.model != "embedded":
            record = {"model": self.config.base.model, "files": hash_files(Path(self.config.base.model))}  # as the base stage does
            (payload / RECORD).write_text(json.dumps(record))
        (payload / "payload.txt").write_text(f"{name} from {sorted(inputs)}: {self.content}\n")
        return {"value": 1.0}

    def _start_fleet(self) -> None:
        pass

    def _signals_stop(self) -> Any:
        return nullcontext()
