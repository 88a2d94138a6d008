"""Memory runs out, the message names the setting to lower, and the run continues with the lower setting from its checkpoint.

The limit is set inside the process, at the moment when the memory is taken, so that no test depends on when it looks.
"""

import ctypes
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.forked import ForkedRun
from tests.integration.conftest import SMALL, copy_before_ppo

pytestmark = pytest.mark.slow
SETTINGS = [
    *SMALL,
    "generation.batch_size=2048",
    "sample.num_prompts=64",
    "sample.num_completions=32",
    "ppo.batch_size=1024",
    "ppo.num_minibatches=1",
    "ppo.num_updates=2",
    "runtime.checkpoint_seconds=0",
]
SPARE_BYTES = {"sample": 70 * 2**20, "policy": 100 * 2**20}
"""What the process may take beyond what it holds when the stage, or the second update of PPO, begins. A batch of 2,048 samples needs more
(three arrays of 2,048 x 1,536 probabilities in float64 are 75 MB), and so does a minibatch of 1,024 rows in PPO. 64 samples and 16 rows
need less."""
M_MMAP_THRESHOLD = -3
EARLIER = ("round-000/reward", "round-000/policy")
"""The stages of the round before it samples."""


def data_bytes() -> int:
    """What this process holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))


def return_what_is_freed() -> None:
    """Have the C library give memory back when it is freed, from 1 MB on. Otherwise what a step needs does not show."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)


def limited(work: Callable[..., Any], spare: int, is_limited: Callable[..., bool]) -> Callable[..., Any]:
    """`work`, with a limit to the memory of the process where `is_limited` says so of the arguments."""

    def run(*arguments: Any) -> Any:
        if not is_limited(*arguments):
            return work(*arguments)
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + spare, resource.RLIM_INFINITY))
        try:
            return work(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    return run


def limit_sampling() -> None:
    """Limit the sample stage of the run that this process is about to make."""
    from loop import stages

    return_what_is_freed()
    stages.STAGES["sample"] = limited(stages.STAGES["sample"], SPARE_BYTES["sample"], lambda context: True)


def limit_ppo() -> None:
    """Limit the updates of PPO, but for the first, so that there is a checkpoint."""
    from policies.ppo import PPOTrainer

    return_what_is_freed()
    PPOTrainer.step = limited(PPOTrainer.step, SPARE_BYTES["policy"], lambda trainer, update, prompts: update > 0)  # type: ignore[method-assign]


def read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The run that has all the memory it needs."""
    run = ForkedRun(tmp_path_factory.mktemp("memory") / "reference", SETTINGS)
    run.start(rounds=1)
    assert run.process.wait(timeout=300) == 0
    return run


def out_of_memory(run: ForkedRun) -> str:
    """Start the run, and return what it says when it ends for want of memory."""
    run.start(rounds=1)
    assert run.process.wait(timeout=240) == 4
    said = (run.folder / f"log-{run.attempts}").read_text()
    assert "ran out of memory" in said and "Traceback" not in said
    return said


def test_a_smaller_sampling_batch_draws_the_same_samples(reference, tmp_path):
    """A response has a seed of its own, so only rounding can make it another one: about one in a thousand (`generation.batch_size`). Of
    2,048 responses, 2 are expected to change, and more than 8 with probability 2e-4 (Poisson). All stages before are those of the
    reference, and the later ones are made from the samples."""
    run = ForkedRun(tmp_path / "run", SETTINGS)
    copy_before_ppo(reference, run)
    run.prepare = limit_sampling
    assert "lower generation.batch_size (now 2048) and run the command again" in out_of_memory(run)
    run.start(rounds=1, settings=["generation.batch_size=64"])
    assert run.process.wait(timeout=240) == 0
    one, two = (read_log(each.folder / "runs/chaos/round-000/sample/samples.jsonl") for each in (reference, run))
    assert [row["id"] for row in one] == [row["id"] for row in two] and len(one) == 64 * 32
    assert sum(a != b for a, b in zip(one, two, strict=True)) <= 8
    before, after = reference.digests(), run.digests()
    assert before.keys() == after.keys()
    assert all(before[stage] == after[stage] for stage in before if stage.startswith("setup/") or stage in EARLIER)


def test_a_smaller_micro_batch_continues_from_the_checkpoint(reference, tmp_path):
    """The first update is kept to the last digit, and the next one is the same up to rounding. Later updates would drift apart: sums
    over rows are added in another order, and Adam amplifies small gradients. So the digests of policy and later stages differ."""
    run = ForkedRun(tmp_path / "run", SETTINGS)
    copy_before_ppo(reference, run)
    begun = len(run.events())
    run.prepare = limit_ppo
    said = out_of_memory(run)
    assert "round-000/policy ran out of memory" in said and "lower ppo.micro_batch_size (now 1024)" in said
    run.start(rounds=1, settings=["ppo.micro_batch_size=16", "generation.batch_size=64"])
    assert run.process.wait(timeout=240) == 0
    started = [event for event in run.events()[begun:] if event["event"] == "stage_started" and event["stage"] == "policy"]
    assert [event.get("resumed") for event in started] == [None, "step-00000001"]
    one, two = (read_log(each.folder / "runs/chaos/round-000/policy/metrics.jsonl") for each in (reference, run))
    assert two[0] == one[0]
    # The same policy answers the same prompts. One response of 1,024 may differ where rounding decides a token: 3 std / 1,024 = 3e-3.
    for name in ("objective/scores", "objective/kl"):
        assert two[1][name] == pytest.approx(one[1][name], abs=3e-3)
