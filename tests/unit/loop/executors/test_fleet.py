"""What the fleet relies on: errors that cross a pipe, processes that are found by their mark, signs of life that come from work."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from configs.errors import LoopError, UserError, WaitingForLabels
from loop.executors.heartbeat import main_thread_position
from loop.executors.processes import MARK, kill_marked, marked
from loop.failures import OutOfMemory, StageFailed, WorkerLost, error_from_json, error_to_json
from policies import parallel
from tests.forked import Forked

ERRORS = [
    UserError("what", "where", "to do"),
    WaitingForLabels("label them"),
    OutOfMemory("no memory"),
    StageFailed("it failed", "traceback"),
    WorkerLost("it died", "log"),
    LoopError("other"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_cross_a_pipe_and_ray(error):
    """Errors reach the driver as JSON. Ray pickles what a stage raises."""
    for again in (error_from_json(json.loads(json.dumps(error_to_json(error)))), pickle.loads(pickle.dumps(error))):
        assert type(again) is type(error) and str(again) == str(error) and again.exit_code == error.exit_code
        assert getattr(again, "detail", None) == getattr(error, "detail", None)


def test_an_unknown_kind_of_error_arrives_as_its_nearest_known_kind():
    data = error_to_json(UserError("what", "where", "to do"))
    again = error_from_json(data | {"kinds": ["UserErrorOfSomeLibrary", *data["kinds"]]})
    assert type(again) is UserError and str(again) == "what\n  where: where\n  to do: to do"


def test_all_processes_with_a_mark_are_killed_even_frozen_ones():
    """A child, and a grandchild that is stopped and whose parent is dead."""
    script = "import subprocess, sys, time; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); time.sleep(600)"
    command, environment = [sys.executable, "-c", script], os.environ | {MARK: "test-mark"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        grandchild = int(child.stdout.readline())
        os.kill(grandchild, signal.SIGSTOP)
        assert {process.pid for process in marked("test-mark")} == {child.pid, grandchild}
        kill_marked("test-mark")
        assert marked("test-mark") == [] and child.wait(10) == -signal.SIGKILL
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE


def test_a_process_can_have_itself_killed_with_the_others():
    """The child process of the fleet does this when the driver ends."""
    script = """
import subprocess, time
from loop.executors.processes import kill_marked_from_outside
print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
kill_marked_from_outside("test-mark")
time.sleep(600)
"""
    environment = os.environ | {MARK: "test-mark", "PYTHONPATH": str(Path(__file__).parents[4])}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True) as child:
        sleeper = psutil.Process(int(child.stdout.readline()))
        assert child.wait(30) == -signal.SIGKILL
    psutil.wait_procs([sleeper], timeout=10)
    assert marked("test-mark") == []


def member(rank: int, port: int, listener: socket.socket | None, seconds: float) -> None:
    """One of two workers whose sums may take `seconds`. The first prints what could be seen of it, as JSON.

    The first works for half a second and then waits in an all-reduce, for which the second is late by about two seconds.
    """
    said: list[str] = []

    def watch() -> None:
        for number in range(1000):
            said.append(main_thread_position(number))
            time.sleep(0.05)

    parallel.join(rank, 2, "127.0.0.1", parallel.Meeting("127.0.0.1", port, listener), seconds)
    listens = [c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    parallel.barrier()
    if rank == 1:
        time.sleep(2.5)
        parallel.all_sum(torch.ones(1))
        return
    threading.Thread(target=watch, daemon=True).start()
    began = time.monotonic()
    while time.monotonic() - began < 0.5:
        sum(range(10_000))
    busy = len(said)
    try:
        parallel.all_sum(torch.ones(1))
        print(json.dumps({"listens": listens, "busy": said[:busy], "waiting": said[busy + 3 : -3]}))
    except RuntimeError as error:
        print(json.dumps({"lost another": parallel.lost_another(error), "a bug": parallel.lost_another(RuntimeError("shapes differ"))}))


def two_workers(tmp_path: Path, seconds: float) -> dict:
    """Run `member` twice, as one group; returns what the first prints."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        first, second = (
            Forked(
                member,
                rank,
                port,
                listener if rank == 0 else None,
                seconds,
                folder=tmp_path,
                environment=os.environ,
                out=tmp_path / f"out-{rank}",
                err=tmp_path / f"err-{rank}",
            )
            for rank in range(2)
        )
    try:
        assert first.wait(120) == 0, first.err.read_text()
        return json.loads(first.out.read_text())
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


def test_a_worker_that_waits_in_a_sum_gives_no_sign_of_life_and_listens_on_loopback_only(tmp_path):
    """The samples are taken every 0.05 s: about 10 while it works, about 40 while it waits."""
    said = two_workers(tmp_path, seconds=60)
    assert len(set(said["busy"])) > 5
    assert len(said["waiting"]) > 15 and len(set(said["waiting"])) == 1, said["waiting"]
    assert said["listens"] and set(said["listens"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_a_sum_that_takes_too_long_means_a_lost_worker(tmp_path):
    assert two_workers(tmp_path, seconds=1) == {"lost another": True, "a bug": False}
