"""What runs inside one actor of the fleet: it holds the backbone and runs stages. Ray itself is not known here."""

import itertools
import json
import logging
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from loop.failures import WorkerLost

PROGRESS_INTERVAL_SECONDS = 0.2
BEAT_SECONDS = 1.0
COLLECTIVE_FACTOR = 5
"""A sum over the workers may take so many times `hang_seconds`. That ends it where waiting looks like work, as it does on a GPU, and
lets a worker wait for a slower one."""


class Worker:
    """One member of the fleet. The backbone is loaded once and kept from stage to stage."""

    def __init__(self, rank: int, threads: int):
        warnings.filterwarnings("ignore")
        logging.getLogger().setLevel(logging.ERROR)
        import torch

        from policies.training import quiet

        quiet()
        torch.set_num_threads(threads)
        self.rank = rank
        self._beat = _Beat()
        self._listener: socket.socket | None = None
        self._backbones: dict[str, Any] = {}

    def ready(self) -> None:
        """Answers once everything heavy is imported, so that a stage starts at once."""
        from loop import stages  # noqa: F401

    def listen(self, host: str) -> int:
        """Open a port at `host` for `join`, where the workers will meet; called on the first one only."""
        self._listener = socket.create_server((host, 0))
        return self._listener.getsockname()[1]

    def join(self, workers: int, host: str, meeting_host: str, meeting_port: int, hang_seconds: float) -> None:
        """Make the workers one group. `host`: the address of this one, by which the others reach it."""
        from policies import parallel

        meeting = parallel.Meeting(meeting_host, meeting_port, self._listener)
        parallel.join(self.rank, workers, host, meeting, COLLECTIVE_FACTOR * hang_seconds)

    def run_stage(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run one stage; `request` is plain data (see `driver.py`). Returns the stage's metrics."""
        from configs.schema import RunConfig
        from configs.views import visible
        from loop import stages
        from policies import parallel
        from policies.checkpoints import Checkpoints

        config, work = visible(RunConfig.model_validate(request["config"]), request["reads"]), Path(request["work"])
        progress = _ProgressFile(work / "progress.json") if self.rank == 0 else None
        context = stages.Context(
            stage=request["stage"],
            round=request["round"],
            config=config,
            inputs={name: _paths(value) for name, value in request["inputs"].items()},
            output=Path(request["output"]),
            checkpoints=Checkpoints(work / "checkpoints", config.runtime.checkpoint_seconds, work / "stop"),
            on_progress=progress.write if progress else lambda done, total: None,
            get_backbone=lambda folder: self._backbone(config, folder),
        )
        try:
            fetches = request["stage"] == "data" or (request["stage"] == "base" and config.base.model != "embedded")
            with self._beat.going_on(work / f"beat-{self.rank}"), self._beat.downloading() if fetches else nullcontext():
                metrics = stages.STAGES[request["stage"]](context)
                parallel.barrier()
        except RuntimeError as error:
            if parallel.lost_another(error):
                raise WorkerLost("a worker waited in vain for another", str(error)) from None
            raise
        return metrics

    def _backbone(self, config: Any, folder: Path) -> Any:
        """The base that the base stage's directory holds or records. Raises UserError where the user's files are other ones now."""
        from loop.store.base_files import check_unchanged, read_record
        from policies.backbone import Backbone

        source = str(folder) if config.base.model == "embedded" else config.base.model
        if source not in self._backbones:
            check_unchanged(folder)
            commit = read_record(folder).get("commit")
            base = config.base.model_copy(update={"revision": commit}) if commit else config.base
            with nullcontext() if config.base.model == "embedded" else self._beat.downloading():
                self._backbones = {source: Backbone.load(source, base, config.lora)}
            check_unchanged(folder)  # and were not replaced while they were read
        return self._backbones[source]


class _Beat:
    """A sign of life in a file, every second, from a thread: what the main thread has done, its CPU time and where it is in the code.

    A main thread that waits in a sum over the workers, for a lock or for nothing moves neither, though the thread here goes on.
    """

    def __init__(self) -> None:
        self._downloading = False

    @contextmanager
    def going_on(self, path: Path) -> Iterator[None]:
        stop = threading.Event()

        def beat() -> None:
            for number in itertools.count():
                with suppress(OSError):
                    path.write_text(f"downloading {number}" if self._downloading else _how_far(number))
                if stop.wait(BEAT_SECONDS):
                    return

        threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        finally:
            stop.set()

    @contextmanager
    def downloading(self) -> Iterator[None]:
        """Meanwhile the main thread may wait for threads that download: it is enough that the process lives."""
        self._downloading = True
        try:
            yield
        finally:
            self._downloading = False


def _how_far(number: int) -> str:
    """What changes whenever the main thread does anything; `number` where the system does not tell a thread's CPU time."""
    main = threading.main_thread().ident
    assert main is not None
    if not hasattr(time, "pthread_getcpuclockid"):
        return str(number)
    stack, frame = [], sys._current_frames().get(main)
    while frame is not None:
        stack.append((id(frame.f_code), frame.f_lasti))
        frame = frame.f_back
    return f"{time.clock_gettime(time.pthread_getcpuclockid(main)):.2f} {hash(tuple(stack))}"


class _ProgressFile:
    """`{"done": n, "total": m}` in a small file, replaced a few times a second; the driver and `status` read it."""

    def __init__(self, path: Path):
        self.path, self._last = path, 0.0

    def write(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= PROGRESS_INTERVAL_SECONDS or done == total:
            self._last = now
            temporary = self.path.with_suffix(".new")
            temporary.write_text(json.dumps({"done": done, "total": total}))
            temporary.replace(self.path)


def _paths(value: Any) -> Any:
    return [Path(item) for item in value] if isinstance(value, list) else Path(value)
