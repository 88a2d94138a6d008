"""The command line. It reads the words, calls one command, and turns errors into messages and exit codes.

    0    done
    2    the user's input is wrong
    3    the run waits for labels
    4    a stage failed
    130  interrupted; the same command continues

Each command is a module with `HELP`, `add_arguments` and `run`, which is imported only if it is asked for: `status` has to answer at once.
Must never import torch or Ray.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from configs.errors import LoopError, Stopped, UserError
from loop import __version__
from loop.commands.explaining import about_a_run, about_the_end
from loop.failures import FULL
from loop.printing import accept_all_text, say
from loop.signals import SIGNALS
from loop.wording import sentence

COMMANDS = {
    "run": "run",
    "resume": "resume",
    "status": "status",
    "label": "label",
    "list": "list_runs",
    "report": "report",
    "samples": "samples",
    "logs": "logs",
    "dashboard": "dashboard",
    "choose": "choose",
    "promote": "promote",
    "doctor": "doctor",
    "plan": "plan",
    "data": "data",
    "verify": "verify",
    "gc": "gc",
    "experiment": "experiment",
}
"""Each command, and its module in this package."""
DEFAULT_RUNS = "runs"
MORE = "docs/quickstart.md explains what a run shows."
QUIET_CODES = (3, Stopped.exit_code)
"""Exit codes that are no error: waiting for labels, interrupted."""


def program() -> NoReturn:
    """The `loop` script and `python -m loop`: one command, then the end of the process."""
    accept_all_text()
    sys.exit(_run_command(None))


def main(words: Sequence[str]) -> int:
    """Run one command in this process and return its exit code. Signal handlers are as before when it returns."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        return _run_command(words)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def make_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands. only: the command that is known to be the first word; the modules of the others are not imported."""
    parser = _Parser(
        prog="loop",
        description="Iterated RLHF. Each round trains a reward model, trains the policy against it, samples from\n"
        "the policy, has the samples judged, and trains the reward model again.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"loop {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    if only not in COMMANDS:
        parser.epilog = "\n\n".join(["`COMMAND --help` describes one command.", about_a_run(), about_the_end(), MORE])
    for name in [only] if only in COMMANDS else COMMANDS:
        module = _module(name)
        command = commands.add_parser(name, help=module.HELP, description=f"{sentence(module.HELP)}.")
        module.add_arguments(command)
        command.add_argument(
            "--runs",
            default=os.environ.get("LOOP_RUNS") or DEFAULT_RUNS,
            metavar="DIR",
            help="the directory that holds the runs (default: LOOP_RUNS, or `runs` in the current directory)",
        )
    return parser


def _module(command: str) -> Any:
    return importlib.import_module(f"loop.commands.{COMMANDS[command]}")


def _run_command(words: Sequence[str] | None) -> int:
    try:
        options = _read(words)
        code = _module(options.command).run(options)
        sys.stdout.flush()  # else Python does it at its end, and complains of a reader that has ended
        return code
    except LoopError as error:
        say(f"{'' if error.exit_code in QUIET_CODES else 'error: '}{error}", to_stderr=True)
        return error.exit_code
    except KeyboardInterrupt:
        return Stopped.exit_code
    except BrokenPipeError:  # the reader of standard output, such as `head`, has ended
        _print_nothing_more()
        return 0
    except OSError as error:  # of a path that cannot be used at all: its name is too long, or its folder is closed to this user
        if error.filename is None and error.errno in FULL:  # of the file that standard output goes to
            _print_nothing_more()
            say("error: the disk is full, so what this command prints is not whole", to_stderr=True)
            return LoopError.exit_code
        if error.filename is None:
            raise
        say(f"error: {UserError(str(error.strerror), str(error.filename), 'check this path and its permissions')}", to_stderr=True)
        return UserError.exit_code


def _print_nothing_more() -> None:
    """Else Python tries once more at its end, and complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _read(words: Sequence[str] | None) -> argparse.Namespace:
    """The options of one command; None reads the command line of this process. Raises UserError for words that no command takes."""
    words = sys.argv[1:] if words is None else words
    options, left = make_parser(next(iter(words), None)).parse_known_args(words)
    settings = [word for word in left if "=" in word and not word.startswith("-")]
    if hasattr(options, "settings") and settings == left:
        options.settings += left  # argparse takes KEY=VALUE before or after the options, but not both
    elif left:
        raise UserError(f"no command takes this: {' '.join(left)}", "the command line", "see `loop --help`")
    return options


class _Parser(argparse.ArgumentParser):
    """argparse, with its errors in the form of all other errors."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message, "the command line", f"see `{self.prog} --help`")
