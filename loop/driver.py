"""The driver of a run. It decides which stages must be made, has an executor make them, commits them and writes the journal.

This is the `Run` that `round.py` talks to. When a worker dies or hangs, the executor replaces it and the stage continues from its
last checkpoint. docs/durability.md tells what a crash leaves at each point. Must never import torch or Ray.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import LoopError, Stopped, UserError, WaitingForLabels
from configs.schema import RunConfig
from loop.executors.executor import Executor, StageRequest
from loop.failures import RESUMES, OutOfMemory, StageFailed, WorkerLost, disk_error, disk_errors_explained, memory_error
from loop.forks import check_same_run
from loop.functions import FUNCTIONS, are_changed, find_changed, hash_functions
from loop.keys import stage_key
from loop.masking import masked, secrets_of
from loop.round import BASE, Inputs, Program, Stage, run_rounds
from loop.signals import StopSignals
from loop.store import artifacts
from loop.store.artifacts import Artifact
from loop.store.base_cache import BaseCache
from loop.store.base_files import check_same_base, check_unchanged
from loop.store.journal import Journal, RunState, StageState
from loop.store.layout import RunFolder, StageWork, stage_name
from loop.store.lock import one_writer
from loop.store.progress import read_progress
from loop.store.run_config import record_start
from loop.store.stage_library import StageLibrary
from loop.store.upkeep import verify
from loop.terminal import Terminal
from loop.trackers import Trackers


@dataclass(frozen=True)
class Job:
    """A stage that has to be made: what it is, and where it is made and committed."""

    stage: Stage
    round: int | None
    key: str
    inputs: dict[str, Any]
    work: StageWork
    final: Path

    @property
    def name(self) -> str:
        """For people, for example "round-001/policy"."""
        return stage_name(self.stage.name, self.round)


@dataclass(frozen=True)
class Made:
    """What is known of a filled payload directory. copied_from: the run that it was copied from; `seconds` are those of that run."""

    metrics: dict[str, Any]
    seconds: float
    copied_from: str | None = None


class Driver:
    """Makes what a config asks for in a run directory. The executor and the signal handlers belong to the caller."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        terminal: Terminal,
        executor: Executor,
        signals: StopSignals | None = None,
        process_started: float | None = None,
        library: StageLibrary | None = None,
    ):
        """process_started: when the command's process started, by `time.monotonic`, so that the journal can tell how long Python took.

        library: the stages of other runs, which are copied where their key is the same.
        """
        self.config, self.folder, self.terminal = config, folder, terminal
        self.executor, self.signals = executor, signals or StopSignals(terminal.say)
        self.paths = RunFolder(folder)
        self.journal = Journal(self.paths.journal)
        self.library = library
        self.trackers = Trackers(config, folder, terminal.say)
        self._process_started = process_started

    def execute(self, program: Program = run_rounds) -> None:
        """Make everything that `program` asks for and that is not done yet.

        Raises a LoopError after writing to the journal how the run has ended.
        """
        with disk_errors_explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with one_writer(self.folder):
                state = self.journal.state()
                check_same_run(self.folder, state, self.config)
                if self._is_done(state):
                    self.terminal.say(f"{self.config.name} is done: {state.num_rounds} rounds. Nothing to do.")
                    return
                record_start(self.folder, self.journal, self.config)
                with self._end_in_journal(), self.trackers.opened():
                    program(self)
                self.journal.append("run_done")
                shutil.rmtree(self.paths.all_work, ignore_errors=True)

    def _is_done(self, state: RunState) -> bool:
        """Whether all rounds are done, by the present versions of the user's functions, and nothing is damaged."""
        enough = state.state == "done" and state.num_rounds >= self.config.num_rounds
        return enough and not are_changed(self.config, state) and not verify(self.folder, thorough=False)[0]

    def stage(self, stage: Stage, round_number: int | None = None, **inputs: Inputs) -> Artifact:
        """The artifact of a stage: the one that was committed, or a new one."""
        given = {name: value for name, value in inputs.items() if value}
        key = stage_key(self.config, stage, round_number, given)
        final = self.paths.stage(stage.name, round_number)
        artifact = self._find(final, key, self.journal.state().stage(stage.name, round_number))
        copied_from = None
        if artifact is None:
            self._tell_of_edited_functions(stage, round_number)
            artifact, copied_from = self._make(Job(stage, round_number, key, given, self.paths.work(stage.name, round_number), final))
        if stage == BASE:
            check_unchanged(artifact.path)
        row = self.journal.state().stage(stage.name, round_number)
        if row.state != "done" or row.committed is None or row.committed.manifest != artifact.manifest_hash:
            self._journal_commit(stage.name, round_number, artifact, copied_from)
            if self.library:
                self.library.add(artifact)
        self.trackers.finished(stage.name, round_number, artifact)
        return artifact

    def _find(self, final: Path, key: str, row: StageState) -> Artifact | None:
        """The committed stage if it exists and was made by this recipe. Raises UserError where the directory is damaged.

        Where the journal says that the stage is done, it vouches for the manifest. Where an attempt has started and not finished, the
        directory may be older or newer than the last line about it, so only the manifest's own hash can be checked.
        """
        if not os.path.lexists(final):
            return None
        artifact = artifacts.find_committed(final, key)
        recorded = row.committed.manifest if row.committed and row.state == "done" else None
        if damage := artifacts.find_damage(final, recorded):
            to_do = "delete that directory, and the same command makes it again"
            raise UserError(f"{final.name} is damaged: {damage[0]}", str(final), to_do)
        return artifact

    def _tell_of_edited_functions(self, stage: Stage, round_number: int | None) -> None:
        """Say why a stage is made again where the user has edited a function that it calls."""
        committed = self.journal.state().stage(stage.name, round_number).committed
        for function in find_changed(self.config, stage, (committed and committed.metrics) or {}):
            name = stage_name(stage.name, round_number)
            self.terminal.say(f"{name}: {function} was edited, so this stage is made again, and so is all that depends on its result")

    # -- making a stage ---------------------------------------------------------------------------------------------

    def _make(self, job: Job) -> tuple[Artifact, str | None]:
        """Make a stage, or copy it, and commit it. Returns it, and the name of the run that it was copied from.

        Where workers are lost, try again from the last checkpoint.
        """
        if self.signals.asked:  # the stage before this one was finished instead of saved
            raise Stopped("stopped between two stages")
        cache = BaseCache(job.key) if job.stage == BASE and self.config.base.model == "embedded" else None
        restarts = 0
        while True:
            try:
                payload, made = self._attempt(job, cache)
                break
            except WorkerLost as lost:
                if self.signals.asked:  # the signal has reached the workers too
                    raise Stopped("interrupted: the workers were stopped before they had saved") from None
                if restarts == self.config.runtime.max_restarts:
                    raise
                restarts += 1
                said, limit = self._masked(str(lost)), self.config.runtime.max_restarts
                self.journal.append("worker_lost", round=job.round, stage=job.stage.name, message=said)
                self.terminal.say(f"{job.name}: {said}; continuing with new workers (restart {restarts} of at most {limit})")
        before = self.journal.state().stage(job.stage.name, job.round).committed
        if job.stage == BASE:
            check_same_base(payload, job.key, before)
        artifact = artifacts.commit(payload, job.final, job.key, made.metrics, made.seconds)
        if before and before.key == job.key and before.digest != artifact.digest:
            self.terminal.say(f"{job.name}: was made again with other bytes than before, so the stages that use it are made again too")
        if cache:
            cache.keep(job.final)
        shutil.rmtree(job.work.path, ignore_errors=True)
        if made.copied_from:
            self.terminal.say(f"{job.name:<20} copied from {made.copied_from}")
        else:
            self.terminal.stage_done(job.name, made.seconds, made.metrics)
        return artifact, made.copied_from

    def _attempt(self, job: Job, cache: BaseCache | None) -> tuple[Path, Made]:
        """Fill a payload directory once: from another run, from the cache or by the executor. Returns it, and what is known of it."""
        payload = artifacts.begin(job.work.path, job.key)
        resumed = job.work.last_checkpoint()
        self.journal.append("stage_started", round=job.round, stage=job.stage.name, key=job.key, resumed=resumed)
        if made := self._copy(job, payload):
            return payload, made
        started = time.monotonic()
        metrics = self._cached_base(cache, payload) if cache else None
        if metrics is None:
            self._start_executor()
            started = time.monotonic()
            metrics = self._run_stage(job, payload)
        return payload, Made(metrics, time.monotonic() - started)

    def _copy(self, job: Job, payload: Path) -> Made | None:
        """Fill the payload directory from another run of the library. None where none has a whole stage with this key."""
        if self.library is None:
            return None
        found, damage = self.library.copy_to(payload, job.key)
        if damage:
            self.terminal.say(f"{job.name}: a stage of another run is damaged and is not copied: {damage[0]}")
        return Made(found.metrics, found.seconds, RunFolder(found.path.parents[1]).name) if found else None

    def _cached_base(self, cache: BaseCache, payload: Path) -> dict[str, Any] | None:
        """Fill the payload directory from the cache. Returns the stage's metrics, None where there is no whole base."""
        metrics, damage = cache.copy_to(payload)
        if damage:
            self.terminal.say(f"the cached base is damaged and is made again: {damage[0]}")
        return metrics

    def _run_stage(self, job: Job, payload: Path) -> dict[str, Any]:
        """Have the executor fill the payload directory. Returns the stage's metrics."""
        functions = hash_functions(self.config, job.stage)
        request = StageRequest(
            stage=job.stage.name,
            round=job.round,
            config=self.config.model_dump(mode="json"),
            reads=job.stage.visible,
            functions=functions,
            inputs={k: [str(a.path) for a in v] if isinstance(v, list) else str(v.path) for k, v in job.inputs.items()},
            work=str(job.work.path),
            output=str(payload),
        )
        job.work.progress.unlink(missing_ok=True)

        def on_wait() -> None:
            show(now := read_progress(job.work.progress))
            self.trackers.progress(job.stage.name, job.round, now)
            self.signals.check_grace()

        try:
            view = self.terminal.stage(job.name, self.config.name, self.journal.state())
            with self.signals.stage(job.work.stop), view as show:
                metrics = self.executor.run(job.name, request, on_wait)
        except OutOfMemory as error:
            raise memory_error(job.name, job.stage.name, self.config, error) from None
        return metrics | ({FUNCTIONS: functions} if functions else {})

    def _start_executor(self) -> None:
        """Called when a stage first needs it, so that a finished run starts nothing, and again after a part of it was lost.

        The journal gets the addresses also where an earlier run of an experiment has started everything.
        """
        before = time.monotonic()
        with self.terminal.stage("starting the workers"):
            started = self.executor.start()
        there, state = self.executor.startup, self.journal.state()
        if there is None or (started is None and (there.dashboard, there.metrics) == (state.dashboard, state.prometheus)):
            return
        seconds: dict[str, float] | None = None
        if started:
            seconds = started.seconds | ({"python": before - self._process_started} if self._process_started else {})
            self._process_started = None  # another start, after Ray was lost, does not start Python again
            if started.dashboard:
                self.terminal.say(f"Ray dashboard {started.dashboard} (its token: `ray get-auth-token`)")
        addresses = {"dashboard": there.dashboard, "prometheus": there.metrics}
        self.journal.append("run_started", num_rounds=self.config.num_rounds, startup=seconds, **addresses)

    # -- the journal ------------------------------------------------------------------------------------------------

    @contextmanager
    def _end_in_journal(self) -> Iterator[None]:
        """Where the block raises, write to the journal how the run has ended, and raise what the user is told."""
        try:
            yield
        except (KeyboardInterrupt, BrokenPipeError, Stopped):  # a pipe breaks where `head` has read the lines of the run
            self.journal.append("interrupted")
            raise Stopped(f"interrupted: {RESUMES}") from None
        except WaitingForLabels as waiting:
            self.journal.append("waiting", message=self._masked(str(waiting)))
            raise
        except LoopError as error:
            error = disk_error(error, self.folder) or error
            with suppress(OSError):
                self.journal.append("failed", message=self._masked(str(error)))
            raise self._with_log(error) from None

    def _journal_commit(self, stage: str, round_number: int | None, artifact: Artifact, copied_from: str | None) -> None:
        self.journal.append(
            "stage_committed",
            round=round_number,
            stage=stage,
            key=artifact.key,
            digest=artifact.digest,
            manifest=artifact.manifest_hash,
            seconds=artifact.seconds,
            metrics=artifact.metrics,
            copied_from=copied_from,
        )

    def _with_log(self, error: LoopError) -> LoopError:
        """Write the traceback of a failed stage, or what is known of a lost worker, to a log. The new message names the log."""
        if not isinstance(error, StageFailed | WorkerLost):
            return error
        message = f"a stage failed: {self._masked(str(error))}"
        if error.detail:
            log = self.paths.failed_stage_log
            with suppress(OSError):
                log.parent.mkdir(exist_ok=True)
                log.write_text(self._masked(error.detail), encoding="utf-8")
            message += f"\n  log: {log}"
        return LoopError(f"{message}\n  {RESUMES}")

    def _masked(self, text: str) -> str:
        """The text without secrets. An exception of a library may hold an address with a password, or a key: no message of the journal, no
        log and nothing on the terminal has it."""
        return masked(text, secrets_of(self.config))
