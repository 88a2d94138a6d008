"""The errors that a user can see, as a tree. Every error here is caught by name somewhere.

LoopError                 ends a command with a message instead of a traceback (exit code 4)
├── UserError             exit code 2: the input is wrong; the message says what, where and how to correct it
├── WaitingForLabels      exit code 3: the run continues once the labels are there
└── Stopped               exit code 130: Ctrl-C or SIGTERM; the same command resumes the run

The errors of a stage and its workers are in `loop/failures.py`. All of them have exit code 4.
"""

import difflib
from collections.abc import Iterable


class LoopError(Exception):
    """Ends a command with one message and `exit_code`."""

    exit_code = 4


class UserError(LoopError):
    """The user's input is wrong. what: the problem. where: its place in the input. to_do: how to correct it."""

    exit_code = 2

    def __init__(self, what: str, where: str = "", to_do: str = ""):
        super().__init__(what, where, to_do)
        self.what, self.where, self.to_do = what, where, to_do

    def __str__(self) -> str:
        where = f"\n  where: {self.where}" if self.where else ""
        to_do = f"\n  to do: {self.to_do}" if self.to_do else ""
        return f"{self.what}{where}{to_do}"


class WaitingForLabels(LoopError):
    """The labels of a round are not there yet. Nothing is wrong, and nothing is lost."""

    exit_code = 3


class Stopped(LoopError):
    """The user asked the run to stop. Finished work is saved."""

    exit_code = 130


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """The nearest valid name as the end of a message, for example ", did you mean 'gold'?"; empty where none is near."""
    near = difflib.get_close_matches(word, list(names), n=1)
    return f", did you mean {near[0]!r}?" if near else ""
