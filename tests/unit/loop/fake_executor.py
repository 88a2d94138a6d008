"""The real driver on a real run directory, with an executor that computes nothing: a stage's payload is a few bytes of its own name.

What the driver does around a stage (keys, commits, journal, checks) is the same as in a real run, and a run of 200 rounds takes seconds.
"""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from configs import load_config
from loop.driver import Driver
from loop.executors.executor import OnWait, StageRequest, Startup
from loop.round import BASE
from loop.store.base_files import RECORD, hash_files
from loop.store.journal import RunState
from loop.store.stage_library import StageLibrary


class SilentTerminal:
    """Keeps what would be printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def stage(self, name: str, run: str = "", state: RunState | None = None) -> Any:
        return nullcontext(lambda now: None)

    def stage_done(self, name: str, seconds: float, metrics: dict[str, Any]) -> None:
        self.say(name)


class FakeExecutor:
    """An `Executor` whose stages are made at once. `made`: the stages that were made, in order. `content`: what they write."""

    def __init__(self) -> None:
        self.startup: Startup | None = None
        self.made: list[str] = []
        self.content = "the same in every run"

    def start(self) -> Startup | None:
        return None

    def run(self, name: str, request: StageRequest, on_wait: OnWait) -> dict[str, Any]:
        self.made.append(name)
        on_wait()
        output, model = Path(request["output"]), request["config"]["base"]["model"]
        if request["stage"] == BASE.name and model != "embedded":
            (output / RECORD).write_text(json.dumps({"model": model, "files": hash_files(Path(model))}))  # as the base stage does
        (output / "payload.txt").write_text(f"{name} from {sorted(request['inputs'])}: {self.content}\n")
        return {"value": 1.0}

    def stop(self) -> None:
        pass


class FakeDriver(Driver):
    """The driver with a fake executor and a silent terminal."""

    executor: FakeExecutor
    terminal: SilentTerminal  # type: ignore[assignment]

    def __init__(
        self,
        folder: Path,
        *overrides: str,
        num_rounds: int = 1,
        executor: FakeExecutor | None = None,
        library: StageLibrary | None = None,
    ):
        config = load_config(overrides=overrides, name=folder.name, num_rounds=num_rounds)
        super().__init__(config, folder, SilentTerminal(), executor or FakeExecutor(), library=library)  # type: ignore[arg-type]

    @property
    def made(self) -> list[str]:
        return self.executor.made

    def digests(self) -> dict[str, str | None]:
        """The digest of every stage, according to the journal."""
        return {f"{round_number}/{name}": row.digest for round_number, name, row in self.journal.state().stages()}
