"""Runs stages in this process, one worker, without Ray. For tests, for small experiments, and where Ray cannot be installed.

A stage computes the same bytes as on a fleet of one worker. What is missing: several workers, a dashboard, and a replacement for a
worker that dies or hangs, because that is this process. Chosen by `runtime.executor=in-process`.
"""

import _thread
import os
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from configs.schema import RuntimeConfig
from loop.executors.executor import QUIET_LIBRARIES, OnWait, StageRequest, Startup, thread_variables
from loop.executors.worker import Worker
from loop.failures import stage_error

POLL_SECONDS = 0.25


class InProcess:
    """An `Executor` with one worker, which keeps its base model from stage to stage."""

    def __init__(self, config: RuntimeConfig):
        self.config = config
        self.startup: Startup | None = None
        self._worker: Worker | None = None

    def start(self) -> Startup | None:
        if self._worker is not None:
            return None
        began = time.monotonic()
        for name, value in (QUIET_LIBRARIES | thread_variables(self.config.threads_per_worker)).items():
            os.environ.setdefault(name, value)
        self._worker = Worker(0, self.config.threads_per_worker)
        self._worker.ready()
        self.startup = Startup({"workers": time.monotonic() - began})
        return self.startup

    def run(self, name: str, request: StageRequest, on_wait: OnWait) -> dict[str, Any]:
        assert self._worker is not None
        worker, self._worker = self._worker, None  # a stage that fails may leave its models half trained, so the worker is not used again
        try:
            with _calling(on_wait):
                metrics = worker.run_stage(request)
        except Exception as error:
            raise stage_error(error, traceback.format_exc()) from None
        self._worker = worker
        return metrics

    def stop(self) -> None:
        self._worker = None


@contextmanager
def _calling(on_wait: OnWait) -> Iterator[None]:
    """Call `on_wait` from a second thread while the block runs. If it raises, the main thread gets a KeyboardInterrupt."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            try:
                on_wait()
            except (KeyboardInterrupt, BrokenPipeError):
                _thread.interrupt_main()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
