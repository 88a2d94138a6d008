"""Ray dead, frozen or not to be had; signals to the whole process group; workers that wait for ever; ports that are open to others."""

import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.benchmarks.chaos import ACTOR_TITLES, MARK, PROJECT, Run, fleet_processes, kill_ray, lost_in, strike
from tests.integration.conftest import SMALL
from tests.integration.test_kills import SEED, SETTINGS, stage_is_running, wait_for

pytestmark = pytest.mark.slow
RAY_KILLS = int(os.environ.get("LOOP_RAY_KILLS", 3))
"""In how many stages all of Ray is killed. `python -m tests.benchmarks.chaos --ray-kills 10` has ten runs."""
PAIR = [*SMALL, "runtime.workers=2", "runtime.threads=1", "runtime.hang_seconds=8", "runtime.checkpoint_seconds=0"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The undisturbed run that all others have to equal."""
    return ended(Run(tmp_path_factory.mktemp("ray") / "reference", SETTINGS))


def ended(run: Run) -> Run:
    run.start()
    assert run.process.wait(timeout=240) == 0, said_by(run)
    return run


def said_by(run: Run) -> str:
    return (run.folder / f"log-{run.attempts}").read_text()


def named(run: Run, word: bytes) -> list[int]:
    """The run's processes that are called so."""
    return [pid for pid in run.marked() if word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]]


def freeze(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)


def test_all_of_ray_killed_but_the_driver(reference, tmp_path):
    """One command; Ray dies in several stages, with and without the process between it and the driver."""
    rng, seconds = random.Random(SEED), reference.stage_seconds()
    targets = {name: rng.uniform(0.0, seconds[name] / 2) for name in rng.sample(list(seconds)[:13], RAY_KILLS)}
    targets["0/policy"] = seconds["0/policy"] / 2  # one is long enough to be hit for certain
    run = Run(tmp_path / "run", SETTINGS)
    kill_ray(run, targets)
    assert "policy" in lost_in(run), f"LOOP_CHAOS_SEED={SEED}, {targets}"
    assert run.digests() == reference.digests(), f"LOOP_CHAOS_SEED={SEED}, {targets}"
    wait_for(lambda: not run.marked(), 20)


def test_ray_killed_too_often_ends_with_one_message_and_nothing_is_lost(reference, tmp_path):
    run = Run(tmp_path / "run", [*SETTINGS, "runtime.max_restarts=0"])
    run.start()
    wait_for(lambda: stage_is_running(run, "policy"))
    for pid in set(run.marked()) - {run.process.pid, *fleet_processes(run)}:
        strike(pid)
    assert run.process.wait(timeout=120) == 4
    assert "a stage failed" in said_by(run) and "continues from the last checkpoint" in said_by(run) and "Traceback" not in said_by(run)
    assert run.events()[-1]["event"] == "failed"
    wait_for(lambda: not run.marked(), 20)
    run.settings = SETTINGS
    assert ended(run).digests() == reference.digests()


def test_a_frozen_raylet_is_noticed(reference, tmp_path):
    run = Run(tmp_path / "run", [*SETTINGS, "runtime.hang_seconds=5", "ppo.num_updates=200"])
    run.start()
    wait_for(lambda: stage_is_running(run, "policy"))
    freeze(named(run, b"raylet"))
    wait_for(lambda: lost_in(run) == ["policy"], 5 + 15)
    assert "Ray gave no sign of life for 5 s" in [event["message"] for event in run.events() if event["event"] == "worker_lost"]
    wait_for(lambda: sum("startup" in event for event in run.events()) == 2)
    run.kill()


def test_a_worker_that_freezes_while_it_starts_is_noticed(reference, tmp_path):
    run = Run(tmp_path / "run", SETTINGS)
    run.settings = [*SETTINGS, "runtime.hang_seconds=5"]
    run.start()
    freeze(wait_for(lambda: run.marked(b"ray::chaos-worker", *ACTOR_TITLES)))
    assert run.process.wait(timeout=360) == 0
    assert "Ray gave no sign of life for 60 s" in said_by(run)
    assert run.digests() == reference.digests()


def test_the_driver_killed_takes_all_of_ray_with_it(tmp_path):
    run = Run(tmp_path / "run", SETTINGS)
    run.start()
    wait_for(lambda: stage_is_running(run, "policy"))
    freeze(run.marked(*ACTOR_TITLES))
    strike(run.process.pid)
    run.process.wait()
    wait_for(lambda: not run.marked(), 20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_saves(reference, tmp_path, number):
    """As schedulers and terminals send it. Nothing but the signal makes a checkpoint here."""
    run = Run(tmp_path / "run", [*SETTINGS, "runtime.checkpoint_seconds=1000"])
    run.start()
    wait_for(lambda: stage_is_running(run, "policy"))
    os.killpg(run.process.pid, number)
    assert run.process.wait(timeout=30) == 130, said_by(run)
    assert len(list(run.folder.glob("runs/chaos/work/round-000-policy/checkpoints/train/step-*"))) == 1
    assert run.events()[-1]["event"] == "interrupted"
    assert ended(run).digests() == reference.digests()


STUCK = '''
"""One worker stops for ever before its fifth all-reduce, once; its other threads go on."""

import importlib.util
import os
import sys
import threading


class AfterImport:
    def find_spec(self, name, path=None, target=None):
        if name != "policies.parallel":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (run(module), patch(module.dist))
        return spec


def patch(dist):
    original, calls = dist.all_reduce, []

    def all_reduce(*arguments, **options):
        calls.append(1)
        if len(calls) == 5 and dist.get_rank() == 1:
            try:
                os.close(os.open(os.environ["STUCK_FILE"], os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return original(*arguments, **options)
            threading.Event().wait()
        return original(*arguments, **options)

    dist.all_reduce = all_reduce


sys.meta_path.insert(0, AfterImport())
'''


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The undisturbed run of two workers, and who listened where while it trained."""
    run = Run(tmp_path_factory.mktemp("pair") / "reference", PAIR)
    run.start()
    wait_for(lambda: stage_is_running(run, "policy"))
    run.listeners = listeners(run)
    assert run.process.wait(timeout=240) == 0, said_by(run)
    return run


def listeners(run: Run) -> dict[str, set[str]]:
    """Process name -> the addresses that it accepts connections at."""
    found: dict[str, set[str]] = {}
    for pid in run.marked():
        process = psutil.Process(pid)
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                found.setdefault(process.name(), set()).add(connection.laddr.ip)
    return found


def test_a_worker_that_stops_in_an_all_reduce_is_replaced(pair, tmp_path):
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(STUCK)
    run = Run(tmp_path / "run", PAIR, {"PYTHONPATH": f"{PROJECT}:{hook}", "STUCK_FILE": str(tmp_path / "stuck")})
    ended(run)
    assert (tmp_path / "stuck").exists()
    assert lost_in(run) == ["policy"]
    message = next(event["message"] for event in run.events() if event["event"] == "worker_lost")
    assert "no sign of life for 8 s" in message
    assert run.digests() == pair.digests()


def test_one_of_two_workers_killed_is_a_lost_worker(pair, tmp_path):
    """The other's sum then fails with a plain RuntimeError of gloo's: no failed stage."""
    run = Run(tmp_path / "run", PAIR)
    run.start()
    wait_for(lambda: stage_is_running(run, "policy"))
    strike(run.marked(*ACTOR_TITLES)[-1])
    assert run.process.wait(timeout=240) == 0, said_by(run)
    assert lost_in(run) == ["policy"]
    assert run.digests() == pair.digests()


def test_nothing_listens_beyond_loopback(pair):
    """Neither torch's store and gloo's pairs nor Ray, its metrics ports included."""
    assert any("raylet" in name for name in pair.listeners) and any(name.startswith("ray::") for name in pair.listeners)
    beyond = {name: ips - {"127.0.0.1", "::1", "::ffff:127.0.0.1"} for name, ips in pair.listeners.items()}
    assert not any(beyond.values()), beyond


# -- Ray that cannot be had ---------------------------------------------------------------------------------------------


def test_a_port_in_use(workspace):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        _, err = workspace.small("port", f"runtime.dashboard_port={port}", exit_code=2)
    assert str(port) in err and "to do:" in err and err.count("error:") == 1


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "nonsense"])
def test_no_cluster_at_the_address(workspace, address):
    _, err = workspace.small("nowhere", f"runtime.address={address}", exit_code=2)
    assert "cannot join the Ray cluster" in err and "ray start --head" in err and err.count("error:") == 1
    assert workspace.status("nowhere")["state"] == "failed"


def test_ray_cannot_write_its_session(workspace, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    _, err = workspace.small("session", exit_code=4)
    assert "Ray cannot write its session" in err and str(tmp_path / "file") in err and "RAY_TMPDIR" in err and err.count("error:") == 1


@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_joining_a_cluster_with_and_without_a_token(workspace, tmp_path, mode):
    """`ray start --head` as the README says, and no variable set here. (RAY_AUTH_MODE of the cluster itself is what differs.)"""
    (tmp_path / "token").write_text("0123456789abcdef" * 4)
    token = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    port = free_port()
    cluster = Run(tmp_path / "cluster", [])
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--head", f"--port={port}", "--num-cpus=1", "--include-dashboard=false", "--disable-usage-stats"]
    subprocess.run(command, env=os.environ | token | {"RAY_AUTH_MODE": mode, MARK: cluster.mark}, check=True, capture_output=True)
    try:
        run = Run(tmp_path / "run", [*SMALL, f"runtime.address=127.0.0.1:{port}"], token)
        ended(run)
        if mode == "token":
            run = Run(tmp_path / "wrong", run.settings, {"RAY_AUTH_TOKEN": "f" * 64})
            run.start()
            assert run.process.wait(timeout=60) == 2
            assert "the Ray cluster wants a token" in said_by(run) and "ray get-auth-token" in said_by(run)
    finally:
        for pid in cluster.marked():
            strike(pid)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
