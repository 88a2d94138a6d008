"""Whether all workers see the run directory. On a cluster it must be on storage that all nodes share.

The driver leaves a random word in a stage's work directory. Every worker reads it, and answers with a file that holds the same word.
Then the driver looks for the answers. This is done before the first stage of new workers. Otherwise a worker would compute a stage and
write it where nobody finds it. Must never import torch or Ray.
"""

import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from configs.errors import UserError
from loop.store.layout import StageWork

PATIENCE_SECONDS = 10.0
"""How long a file that another machine has written may take to appear."""
RETRY_SECONDS = 0.1


class Sight(TypedDict):
    """What a worker says about the run directory, as plain data that can cross a pipe."""

    rank: int
    host: str
    problem: str | None
    """What is wrong, in words that follow "worker 1 on HOST"; None if the worker has read the word and has answered."""


def leave_word(work: StageWork) -> str:
    """Write a random word where all workers should see it, and return it. The driver does this."""
    work.word.write_text(word := secrets.token_hex(8))
    return word


def find_problem(work: StageWork, rank: int, word: str) -> str | None:
    """Read the driver's word and answer it. Returns what is wrong, or None. Every worker does this."""
    if not _appears(work.word, word):
        return "does not see the run directory"
    try:
        work.answer(rank).write_text(word)
    except OSError as error:
        return f"cannot write to the run directory ({error.strerror})"
    return None


def check_answers(work: StageWork, word: str, sights: Sequence[Sight]) -> None:
    """Raise UserError unless every worker has read the word and its answer is here. The driver does this."""
    for sight in sights:
        problem = sight["problem"]
        if problem is None and not _appears(work.answer(sight["rank"]), word):
            problem = "reads the run directory, but what it writes there does not arrive"
        if problem is not None:
            raise UserError(
                f"worker {sight['rank']} on {sight['host']} {problem}",
                str(work.path.parents[1]),
                "put the run directory on storage that all nodes of the cluster mount at this path, or name such a place with --runs",
            )


def _appears(path: Path, text: str) -> bool:
    """Whether the file holds the text, now or within PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with suppress(OSError):
            if path.read_text() == text:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(RETRY_SECONDS)
