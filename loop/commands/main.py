"""The command line. It reads the words, calls one command, and turns errors into messages and exit codes.

    0    done
    2    the user's input is wrong
    3    the run waits for labels
    4    a stage failed
    130  interrupted; the same command continues

Each command is a module with `HELP`, `add_arguments` and `run`. Must never import torch or Ray.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from configs.errors import LoopError, Stopped, UserError
from loop.commands import choose, data, doctor, experiment, gc, plan, resume, run, status, verify
from loop.printing import say
from loop.signals import SIGNALS

COMMANDS: dict[str, ModuleType] = {
    "run": run,
    "resume": resume,
    "status": status,
    "choose": choose,
    "doctor": doctor,
    "plan": plan,
    "data": data,
    "verify": verify,
    "gc": gc,
    "experiment": experiment,
}
DEFAULT_RUNS = "runs"
QUIET_CODES = (3, Stopped.exit_code)
"""Exit codes that are no error: waiting for labels, interrupted."""


def program() -> NoReturn:
    """The `loop` script and `python -m loop`: one command, then the end of the process."""
    sys.exit(_run_command(None))


def main(words: Sequence[str]) -> int:
    """Run one command in this process and return its exit code. Signal handlers are as before when it returns."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        return _run_command(words)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="loop",
        description="Iterated RLHF. Each round trains a reward model, trains the policy against it, samples from the policy, has the "
        "samples judged, and trains the reward model again.",
        epilog="`COMMAND --help` describes one command. docs/quickstart.md explains what a run shows.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=_sentence(module.HELP))
        module.add_arguments(command)
        command.add_argument(
            "--runs",
            default=os.environ.get("LOOP_RUNS", DEFAULT_RUNS),
            metavar="DIR",
            help="the directory that holds the runs (default: LOOP_RUNS, or `runs` in the current directory)",
        )
    return parser


def _run_command(words: Sequence[str] | None) -> int:
    try:
        options = _read(words)
        return COMMANDS[options.command].run(options)
    except LoopError as error:
        say(f"{'' if error.exit_code in QUIET_CODES else 'error: '}{error}", to_stderr=True)
        return error.exit_code
    except KeyboardInterrupt:
        return Stopped.exit_code
    except BrokenPipeError:  # the reader of standard output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _read(words: Sequence[str] | None) -> argparse.Namespace:
    """The options of one command; None reads the command line of this process. Raises UserError for words that no command takes."""
    options, left = make_parser().parse_known_args(words)
    settings = [word for word in left if "=" in word and not word.startswith("-")]
    if hasattr(options, "settings") and settings == left:
        options.settings += left  # argparse takes KEY=VALUE before or after the options, but not both
    elif left:
        raise UserError(f"no command takes this: {' '.join(left)}", "the command line", "see `loop --help`")
    return options


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


class _Parser(argparse.ArgumentParser):
    """argparse, with its errors in the form of all other errors."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message, "the command line", f"see `{self.prog} --help`")
