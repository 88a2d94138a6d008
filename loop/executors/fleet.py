"""Runs stages on Ray: a child process (`actors.py`) has Ray and the workers, and the driver talks to it over two pipes.

    driver  -- one command a line -->  child: {"id": 3, "do": "call", "name": "round-001/policy", "request": {...}}
    driver  <-- one message a line --  child: {"id": 3, "alive": true}, then {"id": 3, "answer": {...}} or {"id": 3, "error": {...}}

The child has a session of its own, so a signal to the driver's process group does not reach Ray. Every wait for the child is bounded.
When anything dies or hangs, the child and everything that it has started on this machine are killed, and `start` starts them again.
When the driver dies, the child finds the pipe closed and ends, with everything that it has started. Must never import Ray or torch.
"""

import json
import queue
import secrets
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from configs.schema import RuntimeConfig
from loop.executors.executor import OnWait, StageRequest, Startup, child_environment
from loop.executors.heartbeat import SignsOfLife
from loop.executors.processes import in_environment, kill_marked
from loop.executors.shared_folder import PATIENCE_SECONDS, check_answers, leave_word
from loop.failures import OutOfMemory, WorkerLost, error_from_json, oom_kills
from loop.store.layout import StageWork

POLL_SECONDS = 0.25
STOP_SECONDS = 10.0
LOOPBACK_ONLY = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
"""Makes Ray listen on 127.0.0.1 only, as it does on macOS by default. Otherwise other machines can reach all of its ports but one."""
LOG_TAIL = 4000
"""How many characters of Ray's log a failure shows."""


class Fleet:
    """An `Executor` that starts or joins Ray and keeps one worker for each GPU, or as many as the config asks for."""

    def __init__(self, config: RuntimeConfig, name: str, log: Path):
        """name: the name of the workers on Ray's dashboard. log: the file for what Ray and the child print."""
        self.config, self.name, self.log = config, name, log
        self.startup: Startup | None = None
        self._ready = False
        self._seen: Path | None = None
        """The run directory that all of the present workers have been found to see."""
        self._mark = secrets.token_hex(8)
        self._child: subprocess.Popen[bytes] | None = None
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._command = 0

    def start(self) -> Startup | None:
        """Start what is missing: Ray and the workers, or only new workers where Ray still runs.

        Returns None where Ray was running. Raises UserError where the cluster cannot be joined or has no room, WorkerLost where another
        try may help.
        """
        if self._ready:
            return None
        self._seen = None
        seconds = self.config.start_seconds
        if self._child is not None:
            try:
                self._ask({"do": "start workers"}, seconds)
                self._ready = True
                return None
            except WorkerLost:
                self._kill()
        before = time.monotonic()
        self._start_child()
        addresses = self._ask({"do": "start ray"}, seconds)
        between = time.monotonic()
        self._ask({"do": "start workers"}, seconds)
        self._ready = True
        self.startup = Startup({"ray": between - before, "workers": time.monotonic() - between}, **addresses)
        return self.startup

    def run(self, name: str, request: StageRequest, on_wait: OnWait) -> dict[str, Any]:
        """Make a stage on all workers at once; see `Executor.run`. `name` is what the dashboard shows.

        Raises UserError, before the stage begins, if a worker does not see the run directory.
        """
        work = StageWork(Path(request["work"]))
        lives = SignsOfLife([work.beat(rank) for rank in range(self.config.workers)], self.config.hang_seconds)
        kills = oom_kills()

        def watch() -> None:
            on_wait()
            if lives.are_over():
                raise WorkerLost(f"the workers gave no sign of life for {self.config.hang_seconds:g} s")

        self._ready = False
        try:
            self._check_that_all_see(work, on_wait)
            metrics = self._ask({"do": "call", "name": name, "request": request}, self.config.hang_seconds, watch)
        except WorkerLost:
            if oom_kills() > kills:
                raise OutOfMemory("the kernel killed a worker") from None
            raise
        self._ready = True
        return metrics

    def stop(self) -> None:
        """Stop the workers and Ray. What does not stop in time is killed."""
        if self._child is not None:
            with suppress(OSError, subprocess.TimeoutExpired):
                self._send({"do": "stop"})
                self._child.wait(STOP_SECONDS)
            self._kill()

    def _check_that_all_see(self, work: StageWork, on_wait: OnWait) -> None:
        """Find out whether all workers see the run directory, once for each directory and each start of the workers."""
        if self._seen == (folder := work.path.parents[1]):
            return
        word = leave_word(work)
        seconds = self.config.start_seconds + PATIENCE_SECONDS
        answer = self._ask({"do": "look", "work": str(work.path), "word": word}, seconds, on_wait)
        check_answers(work, word, answer["sights"])
        self._seen = folder

    def _start_child(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = child_environment(**in_environment(self._mark))
        if self.config.address is None:
            environment.setdefault(*LOOPBACK_ONLY)
        self._lines = queue.Queue()
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "loop.executors.actors", self.config.model_dump_json(), self.name],
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

    def _ask(self, command: dict[str, Any], seconds: float, on_wait: OnWait = lambda: None) -> dict[str, Any]:
        """The child's answer. Raises the error that the child reports, and WorkerLost where the child dies or is silent for `seconds`."""
        with suppress(OSError):  # a dead child is noticed below, after its last messages
            self._send(command)
        silent = 0.0  # counted in waits and not by the clock: this process may have been suspended itself (Ctrl-Z)
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
            if message["id"] != self._command:  # it belongs to a call that was given up
                continue
            if "error" in message:
                raise error_from_json(message["error"])
            if "answer" in message:
                return message["answer"]
            on_wait()

    def _kill(self) -> None:
        self._ready = False
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
    """Put every whole line into the queue, and None at the end."""
    with stream:
        for line in stream:
            if line.endswith(b"\n"):
                lines.put(line)
    lines.put(None)
