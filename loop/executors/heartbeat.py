"""How a worker shows that it is alive, and how the driver notices that no worker is.

Each worker writes a file every second, from a second thread, with what its main thread has done: the thread's CPU time and its place
in the code. A main thread that waits for a lock, for another worker or for nothing changes neither, although the second thread goes
on. One worker may wait for a busy one, so the workers hang only when none of them has moved. Must never import torch or Ray.
"""

import itertools
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

BEAT_SECONDS = 1.0


class Heartbeat:
    """The worker's side: writes the file."""

    def __init__(self) -> None:
        self._downloading = False

    @contextmanager
    def beating(self, path: Path) -> Iterator[None]:
        """Write to `path` every second while the block runs."""
        stop = threading.Event()

        def beat() -> None:
            for number in itertools.count():
                with suppress(OSError):
                    path.write_text(f"downloading {number}" if self._downloading else main_thread_position(number))
                if stop.wait(BEAT_SECONDS):
                    return

        threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        finally:
            stop.set()

    @contextmanager
    def downloading(self) -> Iterator[None]:
        """While the block runs the main thread may wait for threads that download, so it is enough that the process lives."""
        self._downloading = True
        try:
            yield
        finally:
            self._downloading = False


def main_thread_position(number: int) -> str:
    """A text that changes whenever the main thread does anything. It is `number` where the system does not report a thread's CPU time."""
    main = threading.main_thread().ident
    assert main is not None
    if not hasattr(time, "pthread_getcpuclockid"):
        return str(number)
    stack, frame = [], sys._current_frames().get(main)
    while frame is not None:
        stack.append((id(frame.f_code), frame.f_lasti))
        frame = frame.f_back
    return f"{time.clock_gettime(time.pthread_getcpuclockid(main)):.2f} {hash(tuple(stack))}"


class SignsOfLife:
    """The driver's side: watches the files of all workers. It compares contents by this machine's clock, so file times do not matter."""

    def __init__(self, paths: Sequence[Path], seconds: float):
        self.seconds = seconds
        self._last, self._changed = dict.fromkeys(paths, ""), time.monotonic()
        for path in paths:
            path.unlink(missing_ok=True)

    def are_over(self) -> bool:
        """Whether no file has changed for `seconds`."""
        for path in self._last:
            with suppress(OSError):
                if (now := path.read_text()) != self._last[path]:
                    self._last[path], self._changed = now, time.monotonic()
        return time.monotonic() - self._changed > self.seconds
