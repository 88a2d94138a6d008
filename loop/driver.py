"""The driver of a run: decides whether a stage has to be made, has the fleet make it, commits it, writes the journal.

This is the `Run` that `round.py` talks to. Never imports torch. What a crash leaves at each point is told in ARCHITECTURE.md.
"""

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.errors import LoopError, UserError, WaitingForLabels
from configs.loading import dump_config, read_yaml
from configs.schema import RunConfig
from loop import artifacts
from loop.artifacts import Artifact
from loop.journal import Journal
from loop.monitoring import Terminal
from loop.round import BASE, Inputs, Stage, run_rounds

IDENTITY_EXCLUDES = ("num_rounds", "runtime", "name")
"""What may differ when a run is gone on with: it changes nothing that is already there."""


class Interrupted(LoopError):
    """Ctrl-C or SIGTERM."""

    exit_code = 130


class Driver:
    """Runs a config in its run directory."""

    def __init__(self, config: RunConfig, folder: Path, terminal: Terminal):
        self.config, self.folder, self.terminal = config, folder, terminal
        self.journal = Journal(folder / "journal.jsonl")
        self._fleet: Any = None

    def execute(self) -> None:
        """Everything that is not yet done. Raises LoopError with the exit code, after writing the journal."""
        self._check_identity()
        with one_writer(self.folder):
            state = self.journal.state()
            if state.state == "done" and state.num_rounds >= self.config.num_rounds:
                self.terminal.say(f"{self.config.name} is done: {state.num_rounds} rounds. Nothing to do.")
                return
            (self.folder / "config.yaml").write_text(dump_config(self.config), encoding="utf-8")
            self.journal.append("run_started", num_rounds=self.config.num_rounds)
            with _signals_interrupt():
                try:
                    run_rounds(self)
                except KeyboardInterrupt:
                    self.journal.append("interrupted")
                    raise Interrupted("interrupted: the same command goes on after the last finished stage") from None
                except WaitingForLabels as waiting:
                    self.journal.append("waiting", message=str(waiting))
                    raise
                except LoopError as error:
                    self.journal.append("failed", message=str(error))
                    raise self._with_log(error) from None
                finally:
                    self._stop_fleet()
            self.journal.append("run_done")
            shutil.rmtree(self.folder / "work", ignore_errors=True)

    def stage(self, stage: Stage, round_number: int | None = None, **inputs: Inputs) -> Artifact:
        """The stage's artifact: found where it was committed, or made now."""
        given = {name: value for name, value in inputs.items() if value}
        key = stage_key(self.config, stage, round_number, given)
        final = self.folder / _directory(round_number) / stage.name
        artifact = artifacts.find_committed(final, key)
        journalled = self._journalled(stage.name, round_number)
        if artifact is None:
            artifact = self._make(stage, round_number, given, final, key)
        if journalled != artifact.digest:
            self._journal_commit(stage.name, round_number, artifact)
        return artifact

    # -- making a stage ---------------------------------------------------------------------------------------------

    def _make(self, stage: Stage, round_number: int | None, inputs: dict[str, Any], final: Path, key: str) -> Artifact:
        self.journal.append("stage_started", round=round_number, stage=stage.name, key=key)
        where = _directory(round_number)
        work = artifacts.begin(self.folder / "work" / f"{where}-{stage.name}")
        cached = _cache_folder(key) if stage == BASE and self.config.base.model == "embedded" else None
        started = time.monotonic()
        if cached and artifacts.find_committed(cached, key):
            metrics = _copy_cached(cached, work)
        else:
            metrics = self._run_on_fleet(stage, round_number, inputs, work, f"{where}/{stage.name}")
        seconds = time.monotonic() - started
        if cached and not cached.exists():
            _keep_in_cache(work, cached, key, metrics, seconds)
        artifact = artifacts.commit(work, final, key, metrics, seconds)
        self.terminal.stage_done(f"{where}/{stage.name}", seconds, metrics)
        return artifact

    def _run_on_fleet(self, stage: Stage, round_number: int | None, inputs: dict[str, Any], work: Path, name: str) -> dict[str, Any]:
        progress = work.with_name(work.name + ".progress.json")
        progress.unlink(missing_ok=True)
        request = {
            "stage": stage.name,
            "round": round_number,
            "config": self.config.model_dump(mode="json"),
            "inputs": {k: [str(a.path) for a in v] if isinstance(v, list) else str(v.path) for k, v in inputs.items()},
            "output": str(work),
            "progress": str(progress),
        }
        fleet = self._started_fleet()
        with self.terminal.stage(name) as show:
            return fleet.call(name, request, lambda: show(*_read_progress(progress)))

    def _started_fleet(self) -> Any:
        """Started when the first stage needs it, so that a finished run starts nothing."""
        if self._fleet is None:
            with self.terminal.stage("starting Ray and the workers"):
                from loop.fleet import Fleet

                self._fleet = Fleet(self.config.runtime, self.config.name)
                self._fleet.__enter__()
            self.terminal.say(f"Ray dashboard {self._fleet.dashboard} (its token: `ray get-auth-token`)")
            self.journal.append("run_started", num_rounds=self.config.num_rounds, dashboard=self._fleet.dashboard)
        return self._fleet

    def _stop_fleet(self) -> None:
        if self._fleet is not None:
            self._fleet.__exit__(None, None, None)
            self._fleet = None

    def _journalled(self, stage: str, round_number: int | None) -> str | None:
        state = self.journal.state()
        stages = state.setup if round_number is None else state.rounds.get(round_number, {})
        return stages[stage].digest if stage in stages and stages[stage].state == "done" else None

    def _journal_commit(self, stage: str, round_number: int | None, artifact: Artifact) -> None:
        self.journal.append(
            "stage_committed",
            round=round_number,
            stage=stage,
            key=artifact.key,
            digest=artifact.digest,
            seconds=artifact.seconds,
            metrics=artifact.metrics,
        )

    def _check_identity(self) -> None:
        """Refuses to go on with a run under another config. Until a stage is committed there is nothing to go on with."""
        path, state = self.folder / "config.yaml", self.journal.state()
        stages = [*state.setup.values(), *(stage for stages in state.rounds.values() for stage in stages.values())]
        if not path.exists() or not any(stage.state == "done" for stage in stages):
            self.folder.mkdir(parents=True, exist_ok=True)
            return
        theirs, ours = _flat(read_yaml(path)), _flat(self.config.model_dump(mode="json"))
        differing = [
            f"{key}: {theirs.get(key)!r} there, {ours.get(key)!r} now"
            for key in sorted(theirs.keys() | ours.keys())
            if theirs.get(key) != ours.get(key) and key.split(".")[0] not in IDENTITY_EXCLUDES
        ]
        if differing:
            raise UserError(
                f"the run {self.config.name!r} holds another config: {'; '.join(differing)}",
                str(path),
                "give a new name with --name, or the same settings as before",
            )

    def _with_log(self, error: LoopError) -> LoopError:
        """A failed stage's traceback goes to a log; the message names it."""
        detail = getattr(error, "detail", None)
        if detail is None:
            return error
        log = self.folder / "logs" / "failed-stage.log"
        log.parent.mkdir(exist_ok=True)
        log.write_text(detail, encoding="utf-8")
        return LoopError(f"a stage failed: {error}\n  log: {log}\n  the same command goes on after the last finished stage")


def stage_key(config: RunConfig, stage: Stage, round_number: int | None, inputs: dict[str, Any]) -> str:
    """Hash of the recipe: what the stage is, what it reads of the config, and the digests of what it is given."""
    return artifacts.hash_json(
        {
            "stage": stage.name,
            "version": stage.version,
            "round": round_number,
            "seed": config.seed if stage.seeded else None,
            "config": {name: _section(config, name) for name in stage.reads},
            "inputs": {k: [a.digest for a in v] if isinstance(v, list) else v.digest for k, v in sorted(inputs.items())},
        }
    )


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """A lock that a dead process does not hold. Raises UserError naming the process that has it."""
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"another process is working on this run (process {file.read().strip()})", str(folder), "wait for it, or stop it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def is_locked(folder: Path) -> bool:
    """Whether a live process is working on the run."""
    try:
        with (folder / "lock").open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM, which spot machines send, is Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _directory(round_number: int | None) -> str:
    return "setup" if round_number is None else f"round-{round_number:03d}"


def _section(config: RunConfig, dotted: str) -> Any:
    value: Any = config.model_dump(mode="json")
    for part in dotted.split("."):
        value = value[part]
    return value


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _read_progress(path: Path) -> tuple[int, int]:
    try:
        found = json.loads(path.read_text())
        return found["done"], found["total"]
    except (OSError, ValueError):
        return 0, 0


# -- the tiny base is kept between runs ------------------------------------------------------------------------------------


def _cache_folder(key: str) -> Path:
    root = os.environ.get("LOOP_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "loop")
    return Path(root).expanduser() / f"base-{key[:16]}"


def _copy_cached(cached: Path, work: Path) -> dict[str, Any]:
    shutil.copytree(cached, work, dirs_exist_ok=True)
    manifest = work / artifacts.MANIFEST
    metrics = json.loads(manifest.read_text(encoding="utf-8"))["metrics"]
    manifest.unlink()
    return metrics


def _keep_in_cache(work: Path, cached: Path, key: str, metrics: dict[str, Any], seconds: float) -> None:
    try:
        copy = cached.with_name(f"{cached.name}.{os.getpid()}")
        shutil.copytree(work, copy)
        artifacts.commit(copy, cached, key, metrics, seconds)
    except OSError:
        pass  # a cache that cannot be written only costs the next run its minute
