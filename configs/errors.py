"""The errors that a user sees, as a tree. Must never grow one that nobody catches by name.

LoopError                 anything that ends a command with a message instead of a traceback
├── UserError             exit 2: the input is wrong; the message says what, where and what to do
├── WaitingForLabels      exit 3: the run goes on once somebody has labelled
└── Stopped               exit 130: Ctrl-C or SIGTERM; the same command goes on
"""


class LoopError(Exception):
    """Ends a command with one message and `exit_code`."""

    exit_code = 4


class UserError(LoopError):
    """The user's input is wrong. `what` happened, `where`, and what `to_do` about it."""

    exit_code = 2

    def __init__(self, what: str, where: str = "", to_do: str = ""):
        super().__init__(what, where, to_do)
        self.what, self.where, self.to_do = what, where, to_do

    def __str__(self) -> str:
        where = f"\n  where: {self.where}" if self.where else ""
        to_do = f"\n  to do: {self.to_do}" if self.to_do else ""
        return f"{self.what}{where}{to_do}"


class WaitingForLabels(LoopError):
    """A labeler has not answered yet; nothing is wrong and nothing is lost."""

    exit_code = 3


class Stopped(LoopError):
    """Somebody asked to stop; what is done is saved."""

    exit_code = 130
