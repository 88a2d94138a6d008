"""Processes that start at once, because they are forked from one that has imported torch and the rest already.

They are processes like any other: they can be killed, get signals, and have an exit code. A fresh process takes about six seconds to
import what a stage needs. None of them can reach the hub of Hugging Face; what they find in its cache is in `HUB`.
"""

import atexit
import multiprocessing
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from tests.benchmarks.chaos import Run

PROJECT = Path(__file__).parents[1]
_HOME = Path(tempfile.gettempdir()) / f"loop-tests-{secrets.token_hex(8)}"
HUB = _HOME / "hub"
"""The hub's cache on disk, as the forked processes see it."""
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)  # forked processes do not call it
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preloaded"])


class Forked:
    """A process that runs `function(*arguments)`, which a module must hold. What it prints goes to the files `out` and `err`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, folder: Path, environment: Mapping[str, str], out: Path, err: Path):
        self.out, self.err = out, err
        start_server()
        words = (function, arguments, str(folder), dict(environment), str(out), str(err))
        self._process = _CONTEXT.Process(target=_run, args=words)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; negative if a signal ended the process. Raises TimeoutError."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"the process still runs after {timeout} s")
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def run_command(words: Sequence[str], prepare: Callable[[], None] | None = None) -> None:
    """`python -m loop WORDS`; `prepare` is called before."""
    if prepare:
        prepare()
    from loop.commands.main import main

    sys.exit(main(words))


def run_code(code: str) -> None:
    """Run a program that knows nothing of this project."""
    sys.path[:] = [entry for entry in sys.path if entry and Path(entry).resolve() != PROJECT]
    exec(compile(code, "program", "exec"), {"__name__": "__main__"})


def printed_by(code: str, folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """What a program prints. Fails unless the program ends well."""
    out, err = folder / "program-stdout", folder / "program-stderr"
    process = Forked(run_code, code, folder=folder, environment=os.environ | (environment or {}), out=out, err=err)
    assert process.wait(timeout=120) == 0, err.read_text()
    return out.read_text()


class ForkedRun(Run):
    """A run without Ray, in a forked process."""

    prepare: Callable[[], None] | None = None
    """What is called in the process before the command; for the attempts that follow."""

    def start(self, rounds: int = 2, settings: Sequence[str] = ()) -> None:
        environment = os.environ | {"LOOP_CACHE": str(self.folder / "cache"), "NO_COLOR": "1"} | self.environment
        words = ["run", "--name", "chaos", "--rounds", str(rounds), "runtime.executor=in-process", *self.settings, *settings]
        self.attempts += 1
        log = self.folder / f"log-{self.attempts}"
        self.process = Forked(run_command, words, self.prepare, folder=self.folder, environment=environment, out=log, err=log)


def start_server() -> None:
    """Start the process that the others are forked from, unless it is running. It imports while this process does other things.

    Libraries read these variables when they are imported.
    """
    variables = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(_HOME)}
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _run(function: Callable[..., Any], arguments: tuple, folder: str, environment: dict[str, str], out: str, err: str) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), descriptor)
    function(*arguments)
