"""The environment that every worker gets, whatever starts it."""

import os
import subprocess
import sys

import pytest

from loop.executors.executor import SPIN_COUNT, thread_variables


def test_threads_that_wait_go_to_sleep_soon(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert thread_variables(2) == {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": str(SPIN_COUNT)}


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_a_choice_of_the_user_stays(monkeypatch, name):
    monkeypatch.setenv(name, "active" if name == "OMP_WAIT_POLICY" else "7")
    assert thread_variables(2) == {"OMP_NUM_THREADS": "2"}


@pytest.mark.skipif(sys.platform != "linux", reason="only torch for Linux uses GNU OpenMP")
def test_the_library_under_torch_reads_the_variable():
    # The library itself prints what it has read (OMP_DISPLAY_ENV is a part of OpenMP, VERBOSE adds the variables of GNU's own).
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE", "OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": str(SPIN_COUNT)}
    done = subprocess.run([sys.executable, "-c", "import torch"], env=environment, capture_output=True, text=True, check=True)
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch uses another library than GNU OpenMP here")
    assert f"GOMP_SPINCOUNT = '{SPIN_COUNT}'" in done.stderr
