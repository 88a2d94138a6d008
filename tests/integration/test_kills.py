"""Killed anywhere, ends the same: whole kills, actor kills, hangs, a full disk, signals, a lost node. Real processes throughout."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks.chaos import ACTOR_TITLES, Run, kill_actors, kill_whole, lost_in, strike
from tests.conftest import make_causal_lm
from tests.integration.conftest import SMALL

pytestmark = pytest.mark.slow
SEED = int(os.environ.get("LOOP_CHAOS_SEED", time.time()))
"""Printed with a failure; set it to see the same moments again."""
SETTINGS = [*SMALL, "ppo.num_updates=24", "runtime.checkpoint_seconds=0.5"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The undisturbed run that all others have to equal."""
    run = Run(tmp_path_factory.mktemp("chaos") / "reference", SETTINGS)
    run.start()
    run.go()
    assert run.process.returncode == 0
    return run


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def stage_is_running(run, stage):
    """Whether the stage has begun and has made some steps."""
    events = run.events()
    begun = events and events[-1].get("stage") == stage and events[-1]["event"] == "stage_started"
    return begun and any(run.folder.glob(f"runs/chaos/work/*-{stage}/progress.json"))


def test_whole_kills_at_random_moments(reference, tmp_path):
    rng = random.Random(SEED)
    run = Run(tmp_path / "run", SETTINGS)
    moments = sorted(rng.uniform(0.0, reference.clock) for _ in range(3))
    kill_whole(run, moments)
    assert run.digests() == reference.digests(), f"LOOP_CHAOS_SEED={SEED}, killed at {moments}"


def test_actor_kills_in_every_stage(reference, tmp_path):
    """One command: every kind of stage loses its worker once."""
    rng, seconds = random.Random(SEED), reference.stage_seconds()
    targets = {name: rng.uniform(0.0, seconds[name]) for name in list(seconds)[:11]}  # set-up and round 0
    run = Run(tmp_path / "run", SETTINGS)
    kill_actors(run, targets)
    assert len(lost_in(run)) >= 8  # the shortest stages are over before the signal arrives
    assert run.digests() == reference.digests(), f"LOOP_CHAOS_SEED={SEED}, {targets}"
    command = [sys.executable, "-m", "loop", "status", "chaos", "--json"]
    status = json.loads(
        subprocess.run(
            command, cwd=run.folder, capture_output=True, check=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        ).stdout
    )
    stages = [*status["setup"].values(), *(stage for each in status["rounds"] for stage in each["stages"].values())]
    assert sum(stage["restarts"] for stage in stages) == len(lost_in(run))


def test_a_worker_that_hangs_is_replaced_and_the_end_is_the_same(reference, tmp_path):
    """SIGSTOP: the process lives, answers nothing and gives no sign of life."""
    run = Run(tmp_path / "run", [*SETTINGS, "runtime.hang_seconds=5"])
    run.start()
    wait_for(lambda: stage_is_running(run, "policy"))
    for pid in run.marked(*ACTOR_TITLES):
        os.kill(pid, signal.SIGSTOP)
    assert run.process.wait(timeout=240) == 0
    assert lost_in(run) == ["policy"]
    message = next(event["message"] for event in run.events() if event["event"] == "worker_lost")
    assert "no sign of life for 5 s" in message
    assert run.digests() == reference.digests()


def test_killed_between_reward_model_and_policy_on_a_base_with_dropout(tmp_path):
    """GPT-2 drops one in ten (its default). The process that trained the reward model and the one that resumed after it must
    train the same policy; TRL's RewardTrainer used to switch the dropout off for the rest of its own process only."""
    import torch
    import transformers

    _, tokenizer = make_causal_lm()
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=128, **ids)
    assert config.resid_pdrop == 0.1
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    pairs = [{"prompt": f"{i} mangoes?", "chosen": f"yes, {i % 7}", "rejected": f"no, {i % 5}"} for i in range(160)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    own = [f"base={tmp_path / 'base'}", f"data={tmp_path / 'pairs.jsonl'}", "data.labeler_fraction=0.5", "labeler.kind=reward-model"]
    settings = ["--rounds", "1", *(word for word in SMALL if not word.startswith(("base.", "data."))), *own]

    undisturbed = Run(tmp_path / "undisturbed", settings)
    undisturbed.start()
    assert undisturbed.process.wait(timeout=240) == 0
    run = Run(tmp_path / "run", settings)
    run.start()
    wait_for(lambda: any(event["event"] == "stage_committed" and event.get("stage") == "reward" for event in run.events()))
    run.kill()
    run.start()
    assert run.process.wait(timeout=240) == 0
    assert run.digests() == undisturbed.digests()


def test_too_many_lost_workers_end_the_run_and_nothing_is_lost(tmp_path):
    run = Run(tmp_path / "run", [*SETTINGS, "runtime.max_restarts=0"])
    run.start()
    wait_for(lambda: stage_is_running(run, "policy"))
    for pid in run.marked(*ACTOR_TITLES):
        strike(pid)
    assert run.process.wait(timeout=60) == 4
    assert "a worker died" in (run.folder / "log-1").read_text()
    run.settings = SETTINGS
    run.start()
    assert run.process.wait(timeout=240) == 0


def test_one_signal_saves_two_stop_at_once(reference, tmp_path):
    """Ctrl-C in the middle of PPO: a checkpoint is written, exit 130 within seconds; the next start goes on from it."""
    run = Run(tmp_path / "run", [*SETTINGS, "runtime.checkpoint_seconds=1000"])
    run.start()
    wait_for(lambda: stage_is_running(run, "policy"))
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(timeout=15) == 130
    assert "finishing this step and saving" in (run.folder / "log-1").read_text()
    saved = list(run.folder.glob("runs/chaos/work/round-000-policy/checkpoints/train/step-*"))
    assert len(saved) == 1
    run.start()
    wait_for(lambda: any(event.get("resumed") == saved[0].name for event in run.events()))
    run.process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(timeout=15) == 130
    run.start()
    assert run.process.wait(timeout=240) == 0
    assert run.digests() == reference.digests()


def test_a_full_disk(reference, tmp_path):
    """A run directory on 16 MB: exit 4 with a clear message; moved to a larger disk, the run goes on to the same end."""
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    run = Run(tmp_path / "run", SETTINGS)
    try:
        (small / "ballast").write_bytes(bytes(int(15.5 * 2**20)))
        (run.folder / "runs").symlink_to(small)
        run.start()
        assert run.process.wait(timeout=240) == 4
        said = (run.folder / "log-1").read_text()
        assert "the disk is full" in said and "to do: free some space" in said and "Traceback" not in said
        (small / "ballast").unlink()
        shutil.copytree(small, tmp_path / "large")
    finally:
        subprocess.run(["umount", str(small)], check=True)
    (run.folder / "runs").unlink()
    (run.folder / "runs").symlink_to(tmp_path / "large")
    run.start()
    assert run.process.wait(timeout=240) == 0
    assert run.digests() == reference.digests()


def test_a_lost_node(reference, tmp_path):
    """A cluster of a head without CPUs and two nodes: the one with the actor dies in the middle of PPO, the run goes on with the other."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = {node.all_processes["raylet"][0].process.pid: node for node in [cluster.add_node(num_cpus=1) for _ in range(2)]}
        run = Run(tmp_path / "run", [*SETTINGS, f"runtime.address={cluster.address}"])
        run.start()
        wait_for(lambda: stage_is_running(run, "policy"))
        host = next(pid for pid in map(parent_of_actor, Path("/proc").glob("[0-9]*")) if pid in nodes)
        cluster.remove_node(nodes[host], allow_graceful=False)
        assert run.process.wait(timeout=240) == 0
        assert lost_in(run) == ["policy"]
        assert run.digests() == reference.digests()
    finally:
        cluster.shutdown()


def parent_of_actor(entry: Path) -> int | None:
    """The parent of a process that is a fleet's actor in a stage; None for any other."""
    try:
        if (entry / "cmdline").read_bytes().startswith(b"ray::round-"):
            return int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        pass
    return None


def test_a_directory_that_cannot_be_written(workspace):
    """/sys takes no directories, not even from root; /proc has no such place."""
    _, err = workspace.loop("run", "--runs", "/sys/runs", "--name", "x", exit_code=4)
    assert "cannot be written" in err and "--runs" in err
    _, err = workspace.loop("run", "--runs", "/proc/1/runs", "--name", "x", exit_code=4)
    assert "No such file or directory: /proc/1/runs" in err


def test_a_changed_config_is_forked(two_rounds):
    """The refusal names values and stages; --fork takes over what is not touched, and leaves the old run as it is."""
    before = two_rounds.digests("whole")
    _, err = two_rounds.small("whole", "ppo.kl_coefficient=0.5", exit_code=2)
    assert "ppo.kl_coefficient: 0.2 there, 0.5 now" in err and "round-000/policy" in err and "--fork NEW" in err
    out, _ = two_rounds.small("whole", "--rounds", "1", "ppo.kl_coefficient=0.5", "--fork", "forked")
    assert "stages taken over from whole" in out
    forked = two_rounds.digests("forked")
    assert {name for name in forked if forked[name] == before[name]} >= {
        "setup/data",
        "setup/base",
        "setup/filter",
        "setup/sft",
        "setup/baseline",
        "0/reward",
    }
    assert forked["0/policy"] != before["0/policy"]
    assert two_rounds.digests("whole") == before
    assert "nothing damaged" in two_rounds.loop("verify", "forked")[0]
    assert "0.0 MiB removed" in two_rounds.loop("gc", "forked")[0]
