"""The fleet as the driver sees it: a child process that has Ray and the workers (`actors.py`), and that may die or fall silent.

    driver  -- one command a line -->  child: {"id": 3, "do": "call", "name": "round-001/policy", "request": {...}}
    driver  <-- one message a line --  child: {"id": 3, "alive": true}, then {"id": 3, "answer": {...}} or {"id": 3, "error": {...}}

The child is in a session of its own, so that a signal to the driver's process group does not reach Ray. Every wait for it is
bounded. Whatever dies or hangs, it and all that it has started on this machine are killed, and `start` starts them again. When
the driver dies, the child finds the pipe closed, and goes away with everything. Must never import Ray.
"""

import json
import os
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from configs.schema import RuntimeConfig
from loop.executors.processes import in_environment, kill_marked
from loop.failures import WorkerLost, error_from_json

POLL_SECONDS = 0.25
STOP_SECONDS = 10.0
LOOPBACK_ONLY = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
"""Has Ray listen on 127.0.0.1 only, as it does on macOS by default. Without it all of its ports but the dashboard's are open to others."""
LOG_TAIL = 4000


class Fleet:
    """Starts or joins Ray and keeps the workers."""

    def __init__(self, config: RuntimeConfig, run: str, log: Path):
        """log: the file that takes what Ray and the child have to say."""
        self.config, self.run, self.log = config, run, log
        self.dashboard, self.ready = "", False
        self._mark = secrets.token_hex(8)
        self._child: subprocess.Popen[bytes] | None = None
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._command = 0

    def start(self) -> dict[str, float] | None:
        """Start what is not there: Ray and the workers, or, where Ray is well, new workers only.

        Returns the seconds that Ray and the workers took, None where Ray was there. Raises UserError where the cluster cannot be joined or
        has no room, WorkerLost where another try may help.
        """
        seconds = self.config.start_seconds
        if self._child is not None:
            try:
                self._ask({"do": "start workers"}, seconds)
                self.ready = True
                return None
            except WorkerLost:
                self._kill()
        before = time.monotonic()
        self._start_child()
        self.dashboard = self._ask({"do": "start ray"}, seconds)["dashboard"]
        between = time.monotonic()
        self._ask({"do": "start workers"}, seconds)
        self.ready = True
        return {"ray": between - before, "workers": time.monotonic() - between}

    def call(self, name: str, request: dict[str, Any], on_wait: Callable[[], None]) -> dict[str, Any]:
        """Run a stage on all workers; `name` is what the dashboard shows. Calls `on_wait` a few times a second.

        Raises what the stage raised where it is a LoopError, OutOfMemory, WorkerLost where a worker or Ray died or hangs, else StageFailed.
        """
        self.ready = False
        answer = self._ask({"do": "call", "name": name, "request": request}, self.config.hang_seconds, on_wait)
        self.ready = True
        return answer

    def stop(self) -> None:
        """Stop the workers and Ray; kill what does not stop."""
        if self._child is not None:
            with suppress(OSError, subprocess.TimeoutExpired):
                self._send({"do": "stop"})
                self._child.wait(STOP_SECONDS)
            self._kill()

    def _start_child(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        project = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (project, os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"PYTHONPATH": path} | in_environment(self._mark)
        if self.config.address is None:
            environment.setdefault(*LOOPBACK_ONLY)
        self._lines = queue.Queue()
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "loop.executors.actors", self.config.model_dump_json(), self.run],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        threading.Thread(target=_read_lines, args=(self._child.stdout, self._lines), daemon=True).start()

    def _send(self, command: dict[str, Any]) -> None:
        assert self._child is not None and self._child.stdin is not None
        self._command += 1
        self._child.stdin.write(json.dumps(command | {"id": self._command}).encode() + b"\n")
        self._child.stdin.flush()

    def _ask(self, command: dict[str, Any], seconds: float, on_wait: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """The child's answer. Raises what it says was raised, and WorkerLost where it dies, or is silent for `seconds`."""
        with suppress(OSError):  # a dead child is noticed below, after what it said last
            self._send(command)
        silent = 0.0  # counted in waits, not by the clock, so that a driver that was stopped itself (Ctrl-Z) accuses nobody
        while True:
            try:
                line = self._lines.get(timeout=POLL_SECONDS)
            except queue.Empty:
                silent += POLL_SECONDS
                if silent > seconds:
                    self._kill()
                    raise WorkerLost(f"Ray gave no sign of life for {seconds:g} s", self._end_of_log()) from None
                on_wait()
                continue
            if line is None:
                self._kill()
                raise WorkerLost("Ray died", self._end_of_log())
            silent = 0.0
            message = json.loads(line)
            if message["id"] != self._command:  # about a call that was given up
                continue
            if "error" in message:
                raise error_from_json(message["error"])
            if "answer" in message:
                return message["answer"]
            on_wait()

    def _kill(self) -> None:
        self.ready = False
        kill_marked(self._mark)
        if self._child is not None:
            with suppress(OSError, subprocess.TimeoutExpired):
                self._child.wait(STOP_SECONDS)
            with suppress(OSError):
                self._child.stdin.close()  # type: ignore[union-attr]
            self._child = None

    def _end_of_log(self) -> str:
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
        except OSError:
            return ""


def _read_lines(stream: IO[bytes], lines: "queue.Queue[bytes | None]") -> None:
    """Every whole line that comes, and None at the end."""
    with stream:
        for line in stream:
            if line.endswith(b"\n"):
                lines.put(line)
    lines.put(None)
