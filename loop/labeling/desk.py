"""The desk where raters work: the round of the run that waits for labels now, and what each rater sees of it.

    asking     a round waits, and pairs are compared
    working    a process works on the run, so nothing is written into label files, which it may be reading
    over       no round waits: the run is done, or has stopped

The page's writes and a run's reads exclude each other: the run holds its lock as long as it works, and the desk holds that lock, shared,
while it writes. Must never write a label while a process works on the run.
"""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from loop.labeling.answers import opened
from loop.labeling.queue import Queue
from loop.labeling.rounds import Pair, state_of, waiting_round
from loop.printing import printable
from loop.store.layout import RunFolder
from loop.store.lock import is_locked
from rewards.comparisons import Prompt

ASKING, WORKING, OVER = "asking", "working", "over"


class RunIsWorking(Exception):
    """A process has begun to work on the run, so nothing was written."""


class Desk:
    """What is on the desk of a run. Call `close` at the end."""

    def __init__(self, folder: RunFolder, double: float):
        self.folder, self._double = folder, double
        self.queue: Queue | None = None
        self.state = WORKING
        self._mark: tuple[object, ...] = ()
        self._held = ExitStack()

    def look(self) -> bool:
        """Look whether the run has moved since the last time, and lay out its next pairs. True if it has. Raises UserError."""
        stat = self.folder.journal.stat()
        is_working = is_locked(self.folder.path)  # asked once, so that what is laid out is what the mark says
        mark = (is_working, stat.st_size, stat.st_mtime_ns)
        if mark == self._mark:
            return False
        self.close()
        if is_working:
            self.state = WORKING
        elif asked := waiting_round(self.folder):
            file = self._held.enter_context(opened(asked.label_file))
            self.folder.labeling.mkdir(exist_ok=True)
            self.queue = Queue(asked, file, self.folder.labeling / f"skipped-round-{asked.number:03d}.jsonl", self._double)
            self.state = ASKING
        else:
            self.state = OVER
        self._mark = mark
        return True

    def close(self) -> None:
        """Let go of the label file."""
        self.queue, self._mark = None, ()
        self._held.close()

    def write(self, change: Callable[[Queue], None]) -> None:
        """Have a change written to disk. Raises RunIsWorking, and whatever the change raises."""
        with not_working(self.folder.lock):
            self.look()
            if self.queue is None:
                raise RunIsWorking
            change(self.queue)

    @property
    def is_enough(self) -> bool:
        """Whether as many pairs are labeled as the run waits for."""
        return self.queue is not None and self.queue.labeled >= self.queue.wanted

    def view(self, rater: str) -> dict[str, Any]:
        """What the page of a rater shows, as JSON values. All texts are printable, and none is markup."""
        self.look()
        view: dict[str, Any] = {"run": self.folder.name, "rater": rater, "state": self.state, "pair": None}
        if self.queue is None:
            return view | {"run_state": state_of(self.folder) if self.state == OVER else "running"}
        queue, pair = self.queue, self.queue.next(rater)
        agreement = queue.agreement()
        return view | {
            "round": queue.asked.number,
            "pair": _shown(queue, rater, pair) if pair else None,
            "labeled": queue.labeled,
            "wanted": queue.wanted,
            "pairs": len(queue.pairs),
            "skipped": queue.skipped(rater),
            "undo": queue.undoable(rater),
            "raters": [[printable(name), count] for name, count in queue.by_rater().items()],
            "agreement": {"pairs": agreement.pairs, "agree": agreement.agree, "alpha": agreement.alpha},
        }


def _shown(queue: Queue, rater: str, pair: Pair) -> dict[str, Any]:
    sides = [pair.answers[number] for number in queue.sides(rater, pair)]
    left, right = ({"text": printable(answer.text), "finished": answer.finished, "written": printable(answer.written)} for answer in sides)
    asked = _turns(pair.asked) if pair.asked is not None and pair.asked != pair.prompt else []
    return {"name": pair.name, "prompt": _turns(pair.prompt), "asked": asked, "left": left, "right": right}


def _turns(prompt: Prompt) -> list[dict[str, str]]:
    """A prompt as the turns of a dialogue. A text is one turn that nobody says."""
    if isinstance(prompt, str):
        return [{"role": "", "text": printable(prompt)}]
    return [{"role": printable(str(turn.get("role", ""))), "text": printable(str(turn.get("content", "")))} for turn in prompt]


@contextmanager
def not_working(lock: Path) -> Iterator[None]:
    """Keep the run from starting meanwhile. Raises RunIsWorking if a process works on it."""
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunIsWorking from None
        yield
