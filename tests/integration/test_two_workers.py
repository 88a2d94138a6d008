"""Two workers: they compute what one computes, in processes of one machine and on two nodes; workers and nodes that are lost; a node that
does not see the run directory; ports that must not be open to others.

The cluster is one of processes on this machine: nodes of `ray.cluster_utils`, and one that `ray start` adds.
"""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.chaos import ACTOR_TITLES, MARK, PROJECT, Run, lost_in, strike, title_of
from tests.forked import ForkedRun
from tests.integration.conftest import (
    SETTINGS,
    SMALL,
    copy_before_ppo,
    forget_progress,
    freeze,
    listeners,
    losses,
    raylets_of,
    said_by,
    stage_is_running,
    wait_for,
)

pytestmark = pytest.mark.slow
START_SECONDS = 20
PAIR = [*SMALL, "runtime.workers=2", "runtime.threads=1", "runtime.hang_seconds=8", "runtime.checkpoint_seconds=0"]

STUCK = '''
"""One worker waits for ever before its fifth all-reduce, once. Its other threads keep running."""

import importlib.util
import os
import sys
import time
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


@dataclass
class Observed:
    """A run of two workers that nothing disturbs, and what could be seen while it was running."""

    run: Run
    listeners: dict[str, set[str]]
    """Process name -> the addresses at which it accepts connections."""
    actors: set[str]
    """The names that Ray's dashboard shows."""
    refused: int
    """The HTTP status that a request with a wrong token gets."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("pair") / "reference", PAIR)
    run.start(rounds=1)
    address = wait_for(lambda: next((event["dashboard"] for event in run.events() if event.get("dashboard")), None))
    token = (Path.home() / ".ray" / "auth_token").read_text().strip()
    wait_for(lambda: stage_is_running(run, "policy"))
    found = listeners(run)
    wait_for(lambda: "round-000/policy" in names_in_dashboard(address, "tasks", token))  # the dashboard is a little late
    actors = names_in_dashboard(address, "actors", token)
    with pytest.raises(urllib.error.HTTPError) as refusal:
        names_in_dashboard(address, "actors", "wrong")
    refusal.value.close()
    assert run.process.wait(timeout=240) == 0, said_by(run)
    return Observed(run, found, actors, refusal.value.code)


def names_in_dashboard(address: str, what: str, token: str) -> set[str]:
    request = urllib.request.Request(f"{address}/api/v0/{what}", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return {row["name"] for row in json.load(answer)["data"]["result"]["result"]}


def test_two_workers_that_are_lost_in_two_ways(pair, tmp_path):
    """One worker waits for ever in an all-reduce, and the fleet is replaced. Then one of the two is killed: the other's all-reduce fails
    with a plain RuntimeError of gloo's, which counts as a lost worker, not as a failed stage."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(STUCK)
    run = Run(tmp_path / "run", PAIR, {"PYTHONPATH": f"{PROJECT}:{hook}", "STUCK_FILE": str(tmp_path / "stuck")})
    copy_before_ppo(pair.run, run)
    run.start(rounds=1)
    wait_for(lambda: lost_in(run) == ["policy"])
    assert (tmp_path / "stuck").exists() and "no sign of life for 8 s" in losses(run)[0][1]
    forget_progress(run)
    wait_for(lambda: stage_is_running(run, "policy"))
    strike(run.marked(*ACTOR_TITLES)[-1])
    assert run.process.wait(timeout=240) == 0, said_by(run)
    assert lost_in(run) == ["policy", "policy"]
    assert run.digests() == pair.run.digests()


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A run whose worker has been frozen while it starts. While the driver waits for it, there is time for another test."""
    run = Run(tmp_path_factory.mktemp("frozen") / "run", [*SETTINGS, f"runtime.start_seconds={START_SECONDS}"])
    run.start()
    freeze(wait_for(lambda: run.marked(b"ray::chaos-worker", *ACTOR_TITLES)))
    yield run
    if run.process.poll() is None:
        run.kill()


def test_two_workers_compute_what_one_computes(pair, frozen, tmp_path):
    """Data-parallel sums are added in another order. Measured: weights differ by at most 3e-7 after SFT, reward model, PPO and
    retraining. Other batches, seeds or losses would differ by about the learning rate, 4e-4 and more (4e-3 was seen).

    `frozen` is for the next test; its driver is waiting while this run computes."""
    from safetensors.torch import load_file

    alone = ForkedRun(tmp_path / "alone", SMALL)
    alone.start(rounds=1)
    assert alone.process.wait(timeout=240) == 0
    differences = {}
    for stage in ("setup/sft", "round-000/reward", "round-000/policy", "round-000/retrain"):
        one, two = (load_file(run.folder / "runs/chaos" / stage / "adapter_model.safetensors") for run in (alone, pair.run))
        assert one.keys() == two.keys()
        differences[stage] = max((one[key] - two[key]).abs().max().item() for key in one)
    print("largest difference of a weight, one worker against two:", differences)
    assert max(differences.values()) < 1e-5, differences


def test_a_worker_that_freezes_while_it_starts_is_replaced(frozen):
    wait_for(lambda: "setup/data" in frozen.stage_seconds())
    assert f"Ray gave no sign of life for {START_SECONDS} s" in losses(frozen)[0][1]
    frozen.kill()


def test_nothing_listens_beyond_loopback(pair):
    """Neither torch's store and gloo's pairs nor Ray, its metrics ports included."""
    assert any("raylet" in name for name in pair.listeners) and any(name.startswith("ray::") for name in pair.listeners)
    beyond = {name: ips - {"127.0.0.1", "::1", "::ffff:127.0.0.1"} for name, ips in pair.listeners.items()}
    assert not any(beyond.values()), beyond


def test_the_dashboard_shows_actors_and_stages(pair):
    """Ray's own dashboard, asked over HTTP with its token. `pair` has waited until it showed the stage."""
    assert {"chaos-worker-0", "chaos-worker-1"} <= pair.actors
    assert pair.refused == 403


# -- two nodes ------------------------------------------------------------------------------------------------------------


class Nodes:
    """A cluster with a head without CPUs. Its nodes, by the process number of their raylets, have room for one worker each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.nodes: dict[int, Any] = {}

    def add(self) -> None:
        node = self.cluster.add_node(num_cpus=1)
        self.nodes[node.all_processes["raylet"][0].process.pid] = node

    def remove(self, raylet: int) -> None:
        """The node dies, with the workers that are on it."""
        self.cluster.remove_node(self.nodes.pop(raylet), allow_graceful=False)

    def in_stage(self, stage: str) -> list[int]:
        """The nodes whose workers have begun a stage."""
        return [raylet for raylet in raylets_of(title_of(stage)) if raylet in self.nodes]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.cluster.shutdown()


def test_two_nodes_that_are_lost_in_three_stages(pair, cluster, tmp_path):
    """Two of three nodes have a worker each. One of them dies in each stage, then another node comes. The command is typed once."""
    for _ in range(3):
        cluster.add()
    run = Run(tmp_path / "run", [*PAIR, f"runtime.address={cluster.cluster.address}"])
    run.start(rounds=1)
    for number, stage in enumerate(("setup/sft", "0/policy", "0/retrain")):
        first, second = wait_for(lambda stage=stage: len(found := cluster.in_stage(stage)) == 2 and found)
        assert first != second
        cluster.remove((first, second)[number % 2])
        cluster.add()
    assert run.process.wait(timeout=240) == 0, said_by(run)
    assert lost_in(run) == ["sft", "policy", "retrain"], losses(run)
    assert run.digests() == pair.run.digests()


def test_a_node_that_does_not_see_the_run_directory(cluster, tmp_path):
    """A node that `ray start` adds is in a mount namespace of its own, where an empty disk hides the directory of the runs.

    The message comes before anything is made."""
    if os.geteuid() or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    while len(cluster.nodes) < 1:
        cluster.add()
    for raylet in list(cluster.nodes)[1:]:
        cluster.remove(raylet)
    run = Run(tmp_path / "run", [*PAIR, f"runtime.address={cluster.cluster.address}"])
    runs = run.folder / "runs"
    runs.mkdir()
    start = f"{Path(sys.executable).with_name('ray')} start --address={cluster.cluster.address} --num-cpus=1 --disable-usage-stats --block"
    command = ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs tmpfs {runs} && exec {start}"]
    with (tmp_path / "node").open("wb") as log, subprocess.Popen(command, env=os.environ | {MARK: run.mark}, stdout=log, stderr=log):
        try:
            run.start(rounds=1)
            assert run.process.wait(timeout=120) == 2, said_by(run) + (tmp_path / "node").read_text()
        finally:
            for pid in run.marked():
                with suppress(ProcessLookupError):
                    strike(pid)
    said = said_by(run)
    assert "does not see the run directory" in said and f"where: {runs / 'chaos'}" in said and "to do: put the run directory" in said
    assert said.count("error:") == 1 and "Traceback" not in said
    assert not any(event["event"] == "stage_committed" for event in run.events())
