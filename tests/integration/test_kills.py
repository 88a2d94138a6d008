"""Killed anywhere, a run ends with the same bytes: SIGKILL in every stage, a full disk. Processes and signals are real.

These runs need no Ray. `test_ray_dies.py` has what Ray itself can suffer, and `test_two_workers.py` has lost nodes.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress

import pytest

from tests.benchmarks.chaos import stage_of
from tests.conftest import make_causal_lm
from tests.forked import ForkedRun
from tests.integration.conftest import SEED, SETTINGS, SMALL, wait_for

pytestmark = pytest.mark.slow


def kill_in(run: ForkedRun, stage: str, seconds: float) -> bool:
    """Start the run, and kill it some seconds after the stage began. Returns whether it was still running by then."""
    known = len(run.events())
    run.start()
    wait_for(lambda: run.process.poll() is not None or stage in map(stage_of, run.events()[known:]))
    time.sleep(seconds)
    with suppress(ProcessLookupError):
        os.killpg(run.process.pid, signal.SIGKILL)
    return run.process.wait() == -signal.SIGKILL


def test_killed_once_in_every_stage(reference, tmp_path):
    """At a random moment of each stage, then the same command again. Driver and worker are one process here, so both are killed."""
    rng, run = random.Random(SEED), ForkedRun(tmp_path / "run", SETTINGS)
    moments = {stage: rng.uniform(0.0, seconds) for stage, seconds in reference.stage_seconds().items()}
    # A signal may come when its stage has just ended: then it kills the next one, and there is nothing left to kill here.
    killed = [stage for stage, moment in moments.items() if stage not in run.stage_seconds() and kill_in(run, stage, moment)]
    assert len(killed) >= 12
    run.start()
    assert run.process.wait(timeout=240) == 0
    assert run.digests() == reference.digests(), f"LOOP_CHAOS_SEED={SEED}, killed in {killed} of {moments}"


def test_killed_between_reward_model_and_policy_on_a_base_with_dropout(tmp_path):
    """GPT-2 drops one in ten activations by default. The process that trained the reward model and a process that resumes after it must
    train the same policy. TRL's RewardTrainer switches dropout off for the rest of its own process, which would make a difference."""
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
    settings = [*(word for word in SMALL if not word.startswith(("base.", "data."))), *own]

    undisturbed = ForkedRun(tmp_path / "undisturbed", settings)
    undisturbed.start(rounds=1)
    assert undisturbed.process.wait(timeout=240) == 0
    run = ForkedRun(tmp_path / "run", settings)
    run.start(rounds=1)
    wait_for(lambda: any(event["event"] == "stage_committed" and event.get("stage") == "reward" for event in run.events()))
    run.kill()
    run.start(rounds=1)
    assert run.process.wait(timeout=240) == 0
    assert run.digests() == undisturbed.digests()


def test_a_full_disk(reference, tmp_path):
    """The run directory is on 16 MB: exit code 4 with a clear message. Moved to a larger disk, the run ends with the same bytes."""
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    run = ForkedRun(tmp_path / "run", SETTINGS)
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


def test_a_directory_that_cannot_be_written(workspace):
    """/sys takes no directories, not even from root; /proc has no such place."""
    _, err = workspace.loop("run", "--runs", "/sys/runs", "--name", "x", exit_code=4)
    assert "cannot be written" in err and "--runs" in err
    _, err = workspace.loop("run", "--runs", "/proc/1/runs", "--name", "x", exit_code=4)
    assert "No such file or directory: /proc/1/runs" in err


def test_a_changed_config_is_forked(two_rounds):
    """The refusal names values and stages. --fork takes over the stages that are not affected, and leaves the old run as it is."""
    before = two_rounds.digests("whole")
    _, err = two_rounds.small("whole", "ppo.kl_coefficient=0.5", exit_code=2)
    assert "ppo.kl_coefficient: 0.2 there, 0.5 now" in err and "round-000/policy" in err and "--fork NEW" in err
    out, _ = two_rounds.small("whole", "--rounds", "1", "ppo.kl_coefficient=0.5", "--fork", "forked")
    assert "stages taken over from whole" in out
    forked = two_rounds.digests("forked")
    taken = ("setup/data", "setup/base", "setup/filter", "setup/sft", "setup/baseline", "0/reward")
    assert all(forked[name] == before[name] for name in taken)
    assert forked["0/policy"] != before["0/policy"]
    assert two_rounds.digests("whole") == before
    assert "nothing damaged" in two_rounds.loop("verify", "forked")[0]
    assert "0.0 MiB removed" in two_rounds.loop("gc", "forked")[0]
