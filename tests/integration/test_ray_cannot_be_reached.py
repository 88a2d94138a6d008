"""Ray that cannot be started or reached, clusters that want a token or none, and runs that are jobs of a cluster."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.benchmarks.chaos import MARK, PROJECT, Run, strike
from tests.integration.conftest import RAY, SMALL, ended, listeners, said_by

pytestmark = pytest.mark.slow
RAY_COMMAND = str(Path(sys.executable).with_name("ray"))
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
TOKEN = "0123456789abcdef" * 4
LAST = "round-001/evaluate"
"""The stage that these clusters make."""


def test_a_port_in_use(workspace):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        _, err = workspace.loop("run", "--name", "port", f"runtime.dashboard_port={port}", exit_code=2)
    assert str(port) in err and "to do:" in err and err.count("error:") == 1


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "nonsense"])
def test_no_cluster_at_the_address(workspace, address):
    _, err = workspace.loop("run", "--name", "nowhere", f"runtime.address={address}", exit_code=2)
    assert "cannot join the Ray cluster" in err and "ray start --head" in err and err.count("error:") == 1
    assert workspace.status("nowhere")["state"] == "failed"


def test_ray_cannot_write_its_session(workspace, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    _, err = workspace.loop("run", "--name", "session", exit_code=4)
    assert "Ray cannot write its session" in err and str(tmp_path / "file") in err and "RAY_TMPDIR" in err and err.count("error:") == 1


@dataclass
class Head:
    """A cluster of one machine that `ray start` has started. Its processes have the mark of `processes`. environment: of those who join."""

    processes: Run
    address: str
    dashboard: str
    environment: dict[str, str]


@contextmanager
def head(folder: Path, mode: str, *options: str, **variables: str) -> Iterator[Head]:
    """mode: RAY_AUTH_MODE of the cluster. What starts on it has the project on its path."""
    processes, port = Run(folder / "cluster", []), free_port()
    (folder / "token").write_text(TOKEN)
    environment = {"RAY_AUTH_TOKEN_PATH": str(folder / "token")} | variables
    started = os.environ | environment | {"RAY_AUTH_MODE": mode, MARK: processes.mark, "PYTHONPATH": str(PROJECT)}
    command = [RAY_COMMAND, "start", "--head", f"--port={port}", "--num-cpus=1", "--disable-usage-stats", *options]
    subprocess.run(command, env=started, check=True, capture_output=True)
    try:
        yield Head(processes, f"127.0.0.1:{port}", "", environment)
    finally:
        for pid in processes.marked():
            strike(pid)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster that listens on loopback only, wants a token and takes jobs."""
    dashboard, agent = free_port(), free_port()
    ports = (f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}")
    with head(tmp_path_factory.mktemp("head"), "token", "--include-dashboard=true", *ports, **LOOPBACK_ONLY) as found:
        found.dashboard = f"http://127.0.0.1:{dashboard}"
        yield found


@pytest.fixture
def unfinished(two_rounds, tmp_path):
    """A run that has all stages but the last. Other tests may have told it to go on without Ray."""
    run = Run(tmp_path / "run", [*SMALL, RAY])
    shutil.copytree(two_rounds.folder / "runs" / "whole", run.journal.parent)
    shutil.rmtree(run.journal.parent / LAST)
    return run


def test_joining_a_cluster_that_wants_a_token(cluster, unfinished):
    """No variable says here that the cluster wants one."""
    unfinished.settings.append(f"runtime.address={cluster.address}")
    unfinished.environment = cluster.environment
    assert LAST in said_by(ended(unfinished)) and (unfinished.journal.parent / LAST).exists()
    shutil.rmtree(unfinished.journal.parent / LAST)
    unfinished.environment = LOOPBACK_ONLY | {"RAY_AUTH_TOKEN": "f" * 64}
    unfinished.start()
    assert unfinished.process.wait(timeout=60) == 2
    assert "the Ray cluster wants a token" in said_by(unfinished) and "ray get-auth-token" in said_by(unfinished)


def test_joining_a_cluster_without_a_token(unfinished, tmp_path):
    with head(tmp_path, "disabled", "--include-dashboard=false") as open_to_all:
        unfinished.settings.append(f"runtime.address={open_to_all.address}")
        unfinished.environment = open_to_all.environment
        assert LAST in said_by(ended(unfinished)) and (unfinished.journal.parent / LAST).exists()


def test_a_run_as_a_job_of_ray(cluster, unfinished):
    """As docs/cluster.md says: it joins the cluster that the job is in, its lines are the log of the job, its exit code is that of the job,
    and nothing listens beyond this machine."""
    words = ["run", "--name", "chaos", "--runs", str(unfinished.folder / "runs"), "--rounds", "2", *SMALL, RAY, "runtime.address=auto"]
    done, heard = submit(cluster, "first", words)
    assert done.returncode == 0, done.stdout
    assert "Job 'first' succeeded" in done.stdout and LAST in done.stdout
    assert (unfinished.journal.parent / LAST).exists()
    job = ask(cluster, "jobs/first")
    assert (job["status"], job["driver_exit_code"]) == ("SUCCEEDED", 0)
    assert LAST in ask(cluster, "jobs/first/logs")["logs"]
    assert any(name.startswith("ray::") for name in heard) and "raylet" in heard
    beyond = {name: ips - {"127.0.0.1", "::1", "::ffff:127.0.0.1"} for name, ips in heard.items()}
    assert not any(beyond.values()), beyond
    refused, _ = submit(cluster, "second", ["run", "ppo.num_updates=none"])
    assert refused.returncode == 1 and "ppo.num_updates" in refused.stdout
    job = ask(cluster, "jobs/second")
    assert (job["status"], job["driver_exit_code"]) == ("FAILED", 2)


def submit(cluster: Head, name: str, words: list[str]) -> tuple[subprocess.CompletedProcess[str], dict[str, set[str]]]:
    """`ray job submit` of a `loop` command, and where the processes of the cluster listen meanwhile."""
    command = [RAY_COMMAND, "job", "submit", "--address", cluster.dashboard, "--submission-id", name, "--"]
    command += [sys.executable, "-m", "loop", *words]
    environment, heard = os.environ | cluster.environment | {"RAY_AUTH_MODE": "token"}, {}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None:
        with suppress(psutil.Error):
            for listener, addresses in listeners(cluster.processes).items():
                heard.setdefault(listener, set()).update(addresses)
        time.sleep(0.2)
    return subprocess.CompletedProcess(command, process.returncode, process.communicate()[0]), heard


def ask(cluster: Head, path: str) -> dict:
    """What the job server says."""
    request = urllib.request.Request(f"{cluster.dashboard}/api/{path}", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
