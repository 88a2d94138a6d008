"""What the fleet stands on: errors that cross a pipe or Ray, processes found by their mark."""

import json
import os
import pickle
import signal
import subprocess
import sys

import psutil
import pytest

from configs.errors import LoopError, UserError, WaitingForLabels
from loop.failures import OutOfMemory, StageFailed, WorkerLost, error_from_json, error_to_json
from loop.processes import MARK, kill_marked, marked

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
    """Plain JSON to the driver; Ray pickles what a stage raises."""
    for again in (error_from_json(json.loads(json.dumps(error_to_json(error)))), pickle.loads(pickle.dumps(error))):
        assert type(again) is type(error) and str(again) == str(error) and again.exit_code == error.exit_code
        assert getattr(again, "detail", None) == getattr(error, "detail", None)


def test_an_error_that_the_driver_does_not_know_arrives_as_the_nearest_that_it_knows():
    data = error_to_json(UserError("what", "where", "to do"))
    again = error_from_json(data | {"kinds": ["UserErrorOfSomeLibrary", *data["kinds"]]})
    assert type(again) is UserError and str(again) == "what\n  where: where\n  to do: to do"


def test_all_that_carry_a_mark_are_killed_frozen_ones_too():
    """A child, and a grandchild that is stopped and has lost its parent."""
    script = "import subprocess, sys, time; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {MARK: "test-mark"}, stdout=subprocess.PIPE, text=True)
    grandchild = int(child.stdout.readline())
    os.kill(grandchild, signal.SIGSTOP)
    assert {process.pid for process in marked("test-mark")} == {child.pid, grandchild}
    kill_marked("test-mark")
    assert marked("test-mark") == [] and child.wait(10) == -signal.SIGKILL
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE
