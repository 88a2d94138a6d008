"""Ray that cannot be started or reached, and clusters that want a token or none."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.chaos import MARK, Run, strike
from tests.integration.conftest import RAY, SMALL, ended, said_by

pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_joining_a_cluster_with_and_without_a_token(two_rounds, tmp_path, mode):
    """`ray start --head` as the README says, and no variable is set here. Only RAY_AUTH_MODE of the cluster itself differs.

    The cluster makes the last stage of a run that has all the others. Other tests may have told that run to go on without Ray.
    """
    (tmp_path / "token").write_text("0123456789abcdef" * 4)
    token = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    port = free_port()
    cluster = Run(tmp_path / "cluster", [])
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--head", f"--port={port}", "--num-cpus=1", "--include-dashboard=false", "--disable-usage-stats"]
    subprocess.run(command, env=os.environ | token | {"RAY_AUTH_MODE": mode, MARK: cluster.mark}, check=True, capture_output=True)
    try:
        run = Run(tmp_path / "run", [*SMALL, RAY, f"runtime.address=127.0.0.1:{port}"], token)
        shutil.copytree(two_rounds.folder / "runs" / "whole", run.journal.parent)
        shutil.rmtree(last_stage := run.journal.parent / "round-001" / "evaluate")
        assert "round-001/evaluate" in said_by(ended(run)) and last_stage.exists()
        if mode == "token":
            shutil.rmtree(last_stage)
            run.environment = {"RAY_AUTH_TOKEN": "f" * 64}
            run.start()
            assert run.process.wait(timeout=60) == 2
            assert "the Ray cluster wants a token" in said_by(run) and "ray get-auth-token" in said_by(run)
    finally:
        for pid in cluster.marked():
            strike(pid)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
