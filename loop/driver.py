"""The driver of a run: decides whether a stage has to be made, has the fleet make it, commits it, writes the journal.

A worker that dies or hangs is replaced, and the stage goes on from its last checkpoint. This is the `Run` that `round.py` talks to.
Never imports torch. What a crash leaves at each point is told in ARCHITECTURE.md.
"""

import hashlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from configs.errors import LoopError, Stopped, UserError, WaitingForLabels
from configs.loading import dump_config
from configs.schema import RunConfig
from loop.executors.fleet import Fleet
from loop.executors.heartbeat import SignsOfLife
from loop.failures import OutOfMemory, StageFailed, WorkerLost, disk_error, disk_errors_explained, oom_kills, what_to_lower
from loop.keys import config_of, differences, shared_stages, stage_directory, stage_key
from loop.round import BASE, Inputs, Stage, run_rounds
from loop.store import artifacts
from loop.store.artifacts import Artifact
from loop.store.base_cache import BaseCache
from loop.store.base_files import TO_DO, check_unchanged, read_record
from loop.store.journal import Journal, StageState
from loop.store.lock import one_writer
from loop.store.progress import read_progress
from loop.store.upkeep import verify
from loop.terminal import Terminal

GRACE_SECONDS = 20.0
"""After Ctrl-C: how long the workers have to finish their step and save, before they are stopped as they are."""
STARTED = time.monotonic()


class Driver:
    """Runs a config in its run directory."""

    def __init__(self, config: RunConfig, folder: Path, terminal: Terminal):
        self.config, self.folder, self.terminal = config, folder, terminal
        self.journal = Journal(folder / "journal.jsonl")
        self._fleet = Fleet(config.runtime, config.name, folder / "logs" / "ray.log")
        self._stage_work: Path | None = None
        self._stop_asked_at: float | None = None
        self._leaving = False

    def execute(self) -> None:
        """Everything that is not yet done. Raises LoopError with the exit code, after writing the journal."""
        with disk_errors_explained(self.folder):
            self._execute()

    def _execute(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with one_writer(self.folder):
            self._check_identity()
            state = self.journal.state()
            if state.state == "done" and state.num_rounds >= self.config.num_rounds and not verify(self.folder, thorough=False)[0]:
                self.terminal.say(f"{self.config.name} is done: {state.num_rounds} rounds. Nothing to do.")
                return
            text = dump_config(self.config)
            self.journal.append("run_started", num_rounds=self.config.num_rounds, config=hashlib.sha256(text.encode()).hexdigest())
            artifacts.write_synced(self.folder / "config.yaml", text)
            with self._signals_stop():
                try:
                    run_rounds(self)
                except (KeyboardInterrupt, Stopped):
                    self.journal.append("interrupted")
                    raise Stopped("interrupted: the same command goes on from the last checkpoint") from None
                except WaitingForLabels as waiting:
                    self.journal.append("waiting", message=str(waiting))
                    raise
                except LoopError as error:
                    error = disk_error(error, self.folder) or error
                    with suppress(OSError):
                        self.journal.append("failed", message=str(error))
                    raise self._with_log(error) from None
                finally:
                    self._fleet.stop()
            self.journal.append("run_done")
            shutil.rmtree(self.folder / "work", ignore_errors=True)

    def stage(self, stage: Stage, round_number: int | None = None, **inputs: Inputs) -> Artifact:
        """The stage's artifact: found where it was committed, or made now."""
        given = {name: value for name, value in inputs.items() if value}
        key = stage_key(self.config, stage, round_number, given)
        final = self.folder / stage_directory(round_number) / stage.name
        artifact = self._find(final, key, self.journal.state().stage(stage.name, round_number))
        if artifact is None:
            artifact = self._make(stage, round_number, given, final, key)
        if stage == BASE:
            check_unchanged(artifact.path)
        row = self.journal.state().stage(stage.name, round_number)
        if row.state != "done" or row.committed is None or row.committed.manifest != artifact.manifest_hash:
            self._journal_commit(stage.name, round_number, artifact)
        return artifact

    def _find(self, final: Path, key: str, row: StageState) -> Artifact | None:
        """The committed stage if it is there and was made by this recipe. Raises UserError where what is there is damaged.

        Where the journal says that the stage is done, it vouches for the manifest. Where an attempt was begun and never came to its line,
        the directory may be older or newer than the last line, and only the manifest's own hash is there to tell.
        """
        if not os.path.lexists(final):
            return None
        artifact = artifacts.find_committed(final, key)
        recorded = row.committed.manifest if row.committed and row.state == "done" else None
        if damage := artifacts.find_damage(final, recorded):
            to_do = "delete that directory: the same command makes it again"
            raise UserError(f"{final.name} is damaged: {damage[0]}", str(final), to_do)
        return artifact

    # -- making a stage ---------------------------------------------------------------------------------------------

    def _make(self, stage: Stage, round_number: int | None, inputs: dict[str, Any], final: Path, key: str) -> Artifact:
        if self._stop_asked_at is not None:  # the stage before came to its end instead of saving
            raise Stopped("stopped between two stages")
        name = f"{stage_directory(round_number)}/{stage.name}"
        work = self.folder / "work" / name.replace("/", "-")
        cache = BaseCache(key) if stage == BASE and self.config.base.model == "embedded" else None
        restarts = 0
        while True:
            payload = artifacts.begin(work, key)
            saved = sorted(path.name for path in work.glob("checkpoints/train/step-*"))
            self.journal.append("stage_started", round=round_number, stage=stage.name, key=key, resumed=saved[-1] if saved else None)
            started = time.monotonic()
            try:
                metrics = self._kept_base(cache, payload) if cache else None
                if metrics is None:
                    self._start_fleet()
                    started = time.monotonic()
                    metrics = self._run_on_fleet(stage, round_number, inputs, work, payload, name)
                break
            except LoopError as lost:
                if not self._can_go_on(lost, restarts):
                    raise
                restarts += 1
                self.journal.append("worker_lost", round=round_number, stage=stage.name, message=str(lost))
                self.terminal.say(f"{name}: {lost}; going on with a new one ({restarts} of {self.config.runtime.max_restarts})")
        seconds = time.monotonic() - started
        if stage == BASE:
            self._refuse_another_base(key, payload)
        artifact = artifacts.commit(payload, final, key, metrics, seconds)
        before = self.journal.state().stage(stage.name, round_number).committed
        if before and before.key == key and before.digest != artifact.digest:
            self.terminal.say(f"{name}: was made again with other bytes than before, so what was made from it is made again")
        if cache and not cache.folder.exists():
            cache.keep(final)
        shutil.rmtree(work, ignore_errors=True)
        self.terminal.stage_done(name, seconds, metrics)
        return artifact

    def _kept_base(self, cache: BaseCache, payload: Path) -> dict[str, Any] | None:
        """Fill the payload from the cache; returns the metrics, or None where no whole base is kept."""
        metrics, damage = cache.copy_to(payload)
        if damage:
            self.terminal.say(f"the base that was kept for all runs is damaged and is made again: {damage[0]}")
        return metrics

    def _refuse_another_base(self, key: str, payload: Path) -> None:
        """Raises UserError where a user's base is recorded again and is another one now, which would silently make all stages anew."""
        before, record = self.journal.state().stage(BASE.name, None).committed, read_record(payload)
        if record and before and before.key == key and before.digest != artifacts.digest_of(payload):
            commit = f": commit {record['commit']}, not {(before.metrics or {}).get('commit')}" if "commit" in record else ""
            raise UserError(f"the base model is not the one that the run began with{commit}", record["model"], TO_DO)

    def _can_go_on(self, error: LoopError, restarts: int) -> bool:
        """Whether this was a lost worker, or a lost Ray, and new ones may be started. Raises Stopped where the run was asked to stop."""
        if not isinstance(error, WorkerLost):
            return False
        if self._stop_asked_at is not None:  # the signal has reached the workers as well
            raise Stopped("interrupted: the workers were stopped before they had saved")
        return restarts < self.config.runtime.max_restarts

    def _run_on_fleet(
        self, stage: Stage, round_number: int | None, inputs: dict[str, Any], work: Path, payload: Path, name: str
    ) -> dict[str, Any]:
        """Raises WorkerLost where an actor died or hangs, OutOfMemory, or what the stage raised."""
        progress = work / "progress.json"
        for old in (progress, work / "stop"):
            old.unlink(missing_ok=True)
        request = {
            "stage": stage.name,
            "round": round_number,
            "config": self.config.model_dump(mode="json"),
            "reads": stage.visible,
            "inputs": {k: [str(a.path) for a in v] if isinstance(v, list) else str(v.path) for k, v in inputs.items()},
            "work": str(work),
            "output": str(payload),
        }
        lives = SignsOfLife([work / f"beat-{rank}" for rank in range(self.config.runtime.workers)], self.config.runtime.hang_seconds)
        kills = oom_kills()

        def on_wait() -> None:
            now = read_progress(progress)
            show(now.done, now.total)
            if self._stop_asked_at is not None and time.monotonic() - self._stop_asked_at > GRACE_SECONDS:
                raise KeyboardInterrupt
            if lives.are_over():
                raise WorkerLost(f"the workers gave no sign of life for {self.config.runtime.hang_seconds:g} s")

        self._stage_work = work
        try:
            with self.terminal.stage(name) as show:
                return self._fleet.call(name, request, on_wait)
        except (OutOfMemory, WorkerLost) as error:
            if isinstance(error, OutOfMemory) or oom_kills() > kills:
                why = str(error) if isinstance(error, OutOfMemory) else "the kernel killed a worker"
                to_do = f"lower {what_to_lower(stage.name, self.config)} and run the command again: it goes on from the last checkpoint"
                raise OutOfMemory(f"{name} ran out of memory ({why})\n  to do: {to_do}; or give the machine more memory") from None
            raise
        finally:
            self._stage_work = None

    def _start_fleet(self) -> None:
        """When a stage first needs it, so that a finished run starts nothing; and again after a part of it was lost."""
        if self._fleet.ready:
            return
        first, before = self._fleet.dashboard == "", time.monotonic()
        with self.terminal.stage("starting Ray and the workers"):
            startup = self._fleet.start()
        if startup is None:  # only new workers
            return
        startup |= {"python": before - STARTED} if first else {}
        self.terminal.say(f"Ray dashboard {self._fleet.dashboard} (its token: `ray get-auth-token`)")
        self.journal.append("run_started", num_rounds=self.config.num_rounds, dashboard=self._fleet.dashboard, startup=startup)

    @contextmanager
    def _signals_stop(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM, which spot machines send: the first has the stage save and stop, the second stops at once.

        A third does not even wait for Ray to stop. Afterwards signals are ignored: the process is ending.
        """

        def on_signal(*_: object) -> None:
            if self._leaving:
                os._exit(130)
            if self._stage_work is None or self._stop_asked_at is not None:
                self._leaving = True
                raise KeyboardInterrupt
            self._stop_asked_at = time.monotonic()
            (self._stage_work / "stop").touch()
            self.terminal.say("finishing the step and saving; once more stops at once")

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, on_signal)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)

    def _journal_commit(self, stage: str, round_number: int | None, artifact: Artifact) -> None:
        self.journal.append(
            "stage_committed",
            round=round_number,
            stage=stage,
            key=artifact.key,
            digest=artifact.digest,
            manifest=artifact.manifest_hash,
            seconds=artifact.seconds,
            metrics=artifact.metrics,
        )

    def _check_identity(self) -> None:
        """Refuses to go on with a run under another config. Until a stage is committed there is nothing to go on with."""
        path, state = self.folder / "config.yaml", self.journal.state()
        if not path.exists() or not any(row.committed for _, _, row in state.stages()):
            return
        differing = differences(config_of(self.folder, state), self.config)
        if differing:
            alike, touched = shared_stages(self.folder, self.config)
            shown = ", ".join(touched[:4]) + (f" and {len(touched) - 4} more" if len(touched) > 4 else "")
            raise UserError(
                f"the run {self.config.name!r} holds another config: {'; '.join(differing)}\n  it touches: {shown or 'no stage'}",
                str(path),
                "leave these settings out, since what is not given is taken from the run's own config; "
                f"or add --fork NEW: a new run that takes over the {len(alike)} stages it does not touch",
            )

    def _with_log(self, error: LoopError) -> LoopError:
        """A failed stage's traceback, or what is known of a lost worker, goes to a log; the message names it."""
        if not isinstance(error, StageFailed | WorkerLost):
            return error
        message = f"a stage failed: {error}"
        if error.detail:
            log = self.folder / "logs" / "failed-stage.log"
            with suppress(OSError):
                log.parent.mkdir(exist_ok=True)
                log.write_text(error.detail, encoding="utf-8")
            message += f"\n  log: {log}"
        return LoopError(f"{message}\n  the same command goes on from the last checkpoint")
