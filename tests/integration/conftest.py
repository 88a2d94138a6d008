"""Runs small enough for a test: every stage, under half a minute."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.benchmarks.chaos import Run, stage_of
from tests.forked import Forked, ForkedRun, run_command

PROJECT = Path(__file__).parents[2]
SEED = int(os.environ.get("LOOP_CHAOS_SEED", time.time()))
"""Decides when and where runs are killed. A failure prints it; set the variable to repeat the same moments."""
SMALL = [
    "base.pretraining_texts=[chosen]",
    "base.pretraining_steps=30",
    "base.pretraining_batch_size=4",
    "base.hidden_size=32",
    "base.num_layers=2",
    "base.num_heads=2",
    "data.num_pairs=96",
    "lora.rank=4",
    "generation.max_new_tokens=12",
    "ppo.num_updates=3",
    "ppo.batch_size=16",
    "ppo.evaluate_prompts=4",
    "sft.batch_size=16",
    "reward.num_epochs=1",
    "reward.normalization_samples=16",
    "sample.num_prompts=24",
    "sample.num_completions=3",
    "sample.heldout_fraction=0.4",
    "select.num_epochs=1",
    "evaluate.num_prompts=32",
    "runtime.threads=1",
]
IN_PROCESS, RAY = "runtime.executor=in-process", "runtime.executor=ray"
"""Which executor makes the stages. A run keeps the executor that it was started with, unless it is told another."""
SETTINGS = [*SMALL, "ppo.num_updates=48", "runtime.checkpoint_seconds=0.5"]
"""For runs that are disturbed: PPO takes some seconds, so that there is time to disturb it."""


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """What the condition gives, once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.05)
    return found


def stage_is_running(run: Run, stage: str) -> bool:
    """Whether the stage has begun and has made some steps."""
    events = [event for event in run.events() if "stage" in event]
    begun = bool(events) and events[-1].get("stage") == stage and events[-1]["event"] == "stage_started"
    return begun and any(run.folder.glob(f"runs/chaos/work/*-{stage}/progress.json"))


def ended(run: Run) -> Run:
    """The run, started and come to a good end."""
    run.start()
    assert run.process.wait(timeout=240) == 0, said_by(run)
    return run


def said_by(run: Run) -> str:
    """What the last attempt has printed."""
    return (run.folder / f"log-{run.attempts}").read_text()


def copy_before_ppo(source: Run, run: Run) -> None:
    """Give `run` what `source` has made up to the first PPO stage, so that it begins there."""
    shutil.copytree(source.journal.parent, run.journal.parent)
    for stage in run.journal.parent.glob("round-*/*"):
        if stage.parent.name != "round-000" or stage.name != "reward":
            shutil.rmtree(stage)


def forget_progress(run: Run) -> None:
    """Remove what an earlier attempt has reported, so that `stage_is_running` waits for the next."""
    for old in run.folder.glob("runs/chaos/work/*/progress.json"):
        old.unlink()


def losses(run: Run) -> list[tuple[str, str]]:
    """(stage, message) of each lost worker, as the journal says."""
    return [(stage_of(event), event["message"]) for event in run.events() if event["event"] == "worker_lost"]


def freeze(pids: list[int]) -> None:
    """SIGSTOP: the process lives, but does nothing and answers nothing."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)


def listeners(run: Run) -> dict[str, set[str]]:
    """Process name -> the addresses at which it accepts connections."""
    found: dict[str, set[str]] = {}
    for pid in run.marked():
        process = psutil.Process(pid)
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                found.setdefault(process.name(), set()).add(connection.laddr.ip)
    return found


def raylets_of(title: bytes) -> list[int]:
    """The parents of all processes of this machine with such a name, for example "ray::round-": the raylets whose actors are in a stage."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "cmdline").read_bytes().startswith(title):
                found.append(int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]))
    return found


class Workspace:
    """A folder to run the command line in, as a user would."""

    def __init__(self, folder: Path, cache: Path):
        self.folder, self.cache = folder, cache

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(PROJECT), "LOOP_CACHE": str(self.cache), "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}

    def start(self, *words: str, **options) -> subprocess.Popen:
        """Type `python -m loop ...`."""
        return subprocess.Popen(
            [sys.executable, "-m", "loop", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def typed(self, *words: str, exit_code: int = 0) -> tuple[str, str]:
        """Run `python -m loop ...` in a fresh process; returns (stdout, stderr) after checking the exit code."""
        process = self.start(*words)
        out, err = process.communicate(timeout=600)
        return self._checked(process.returncode, exit_code, out, err)

    def loop(self, *words: str, exit_code: int = 0) -> tuple[str, str]:
        """The same in a process that starts faster (see `forked.py`)."""
        out, err = self.folder / "stdout", self.folder / "stderr"
        process = Forked(run_command, words, folder=self.folder, environment=self.environment, out=out, err=err)
        returned = process.wait(timeout=600)
        return self._checked(returned, exit_code, out.read_text(), err.read_text())

    def _checked(self, returned: int, exit_code: int, out: str, err: str) -> tuple[str, str]:
        assert returned == exit_code, f"exit {returned}\n{out}\n{err}"
        assert "Traceback" not in err + out
        return out, err

    def small(self, name: str, *words: str, exit_code: int = 0) -> tuple[str, str]:
        """A small run, without Ray."""
        return self.loop("run", "--name", name, IN_PROCESS, *words, *SMALL, exit_code=exit_code)

    def status(self, name: str) -> dict:
        return json.loads(self.loop("status", name, "--json")[0])

    def digests(self, name: str) -> dict[str, str]:
        status = self.status(name)
        stages = {f"setup/{stage}": row["digest"] for stage, row in status["setup"].items()}
        return stages | {f"{r['round']}/{stage}": row["digest"] for r in status["rounds"] for stage, row in r["stages"].items()}


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("cache"))


def made_once(factory: pytest.TempPathFactory, worker_id: str, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first of pytest's processes that needs it makes for all of them. `make` is given the folder."""
    own = factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = folder.with_suffix(".made")
        if not made.exists():
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def two_rounds(workspace, tmp_path_factory, worker_id):
    """The small run of two rounds, typed by a user and made by Ray, in the workspace, which is given. It is made once for all tests."""

    def make(folder: Path) -> None:
        Workspace(folder, folder / "cache").typed("run", "--name", "whole", "--rounds", "2", *SMALL)

    made = made_once(tmp_path_factory, worker_id, "two-rounds", make)
    shutil.copytree(made / "runs" / "whole", workspace.folder / "runs" / "whole")
    shutil.copytree(made / "cache", workspace.cache, dirs_exist_ok=True)
    return workspace


@pytest.fixture(scope="session")
def reference(tmp_path_factory, worker_id):
    """The run that nothing disturbs. All runs with these settings have to end with the same bytes, with Ray and without."""

    def make(folder: Path) -> None:
        run = ForkedRun(folder, SETTINGS)
        run.start()
        assert run.process.wait(timeout=240) == 0

    return ForkedRun(made_once(tmp_path_factory, worker_id, "reference", make), SETTINGS)
