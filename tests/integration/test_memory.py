"""Memory runs out, the message names the setting to lower, and the run goes on from its checkpoint with the lower setting."""

import json
import resource
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.benchmarks.chaos import Run
from tests.integration.conftest import SMALL

pytestmark = pytest.mark.slow
SETTINGS = [
    *SMALL,
    "generation.batch_size=2048",
    "sample.num_prompts=64",
    "sample.num_completions=32",
    "ppo.batch_size=1024",
    "ppo.num_minibatches=1",
    "ppo.num_updates=8",
    "runtime.checkpoint_seconds=0",
]
SPARE_BYTES = {"sample": 40 * 2**20, "policy": 100 * 2**20}
"""What a worker may take beyond what it holds between two steps. Less than a batch of 2,048 samples needs (three arrays of 2,048 x 1,536
probabilities in float64 are 75 MB), or a minibatch of 1,024 rows in PPO; more than 64 samples or 16 rows need."""
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""Has the C library return what is freed, from 1 MB on. Otherwise a process keeps it, and what it needs cannot be seen."""


def data_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))


def worker_of(run: Run, stage: str, after: str = "*") -> int:
    """The process that works on `stage`, once the file pattern `after` is there in the run's work directory."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        pids = run.marked(f"ray::{stage}".encode())
        if pids and any(run.folder.glob(f"runs/chaos/work/{after}")):
            return pids[0]
        time.sleep(0.002)
    raise AssertionError(f"{stage} never began")


def least_bytes(pid: int, seconds: float) -> int:
    """The least data that a process holds within some seconds."""
    return min(data_bytes(pid) for _ in range(int(seconds / 0.005)) if time.sleep(0.005) is None)


def limit_memory(pid: int, limit: int) -> None:
    """Let a process have `limit` bytes of data."""
    resource.prlimit(pid, resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))


def limit_memory_during(run: Run, stage: str, limit: int) -> None:
    """Let the worker have `limit` bytes of data until the stage is committed. Other stages may need more."""
    limit_memory(pid := worker_of(run, stage), limit)
    while run.process.poll() is None and not (run.folder / "runs/chaos" / stage).exists():
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        limit_memory(pid, resource.RLIM_INFINITY)


def read_log(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The undisturbed run."""
    run = Run(tmp_path_factory.mktemp("memory") / "reference", SETTINGS, GIVE_BACK)
    run.start(rounds=1)
    assert run.process.wait(timeout=300) == 0
    return run


@pytest.fixture
def run(reference, tmp_path):
    """The same run once more, not yet started; the tiny base is there already."""
    run = Run(tmp_path / "run", SETTINGS, GIVE_BACK)
    shutil.copytree(reference.folder / "cache", run.folder / "cache")
    return run


def message(run: Run) -> str:
    """What the run said when it ended for want of memory."""
    assert run.process.wait(timeout=240) == 4
    said = (run.folder / f"log-{run.attempts}").read_text()
    assert "ran out of memory" in said and "Traceback" not in said
    return said


def test_a_smaller_sampling_batch_goes_on_to_the_same_end(reference, run):
    """Which samples are drawn does not depend on the batch, so all digests are those of the undisturbed run."""
    run.start(rounds=1)
    pid = worker_of(run, "round-000/sample")
    limit_memory(pid, limit := least_bytes(pid, 0.1) + SPARE_BYTES["sample"])
    assert "lower generation.batch_size (now 2048) and run the command again" in message(run)
    run.settings = [*SETTINGS, "generation.batch_size=64"]
    run.start(rounds=1)
    limit_memory_during(run, "round-000/sample", limit)
    assert run.process.wait(timeout=240) == 0
    assert run.digests() == reference.digests()


def test_a_smaller_micro_batch_goes_on_from_the_checkpoint(reference, run):
    """What was done before is kept to the last digit, and the next update is the same up to rounding. Later ones may drift apart: sums over
    rows are added in another order, and Adam makes much of small gradients. So the digests of policy and later stages differ."""
    run.start(rounds=1)
    pid = worker_of(run, "round-000/policy", "round-000-policy/checkpoints/train/step-*")
    limit_memory(pid, limit := least_bytes(pid, 1.0) + SPARE_BYTES["policy"])  # an update takes about a second
    assert "round-000/policy ran out of memory" in (said := message(run)) and "lower ppo.micro_batch_size (now 1024)" in said
    run.settings = [*SETTINGS, "ppo.micro_batch_size=16", "generation.batch_size=64"]
    run.start(rounds=1)
    limit_memory_during(run, "round-000/policy", limit)
    assert run.process.wait(timeout=240) == 0
    resumed = [event.get("resumed") for event in run.events() if event["event"] == "stage_started" and event["stage"] == "policy"]
    assert resumed[0] is None and resumed[1] >= "step-00000001"
    before = ("setup/data", "setup/base", "setup/sft", "setup/baseline", "round-000/reward")
    ours, theirs = run.digests(), reference.digests()
    assert {name: ours[name] for name in before} == {name: theirs[name] for name in before}
    done = int(resumed[1].removeprefix("step-"))
    one, two = (read_log(each.folder / "runs/chaos/round-000/policy/metrics.jsonl") for each in (reference, run))
    assert two[:done] == one[:done]
    # The same policy answers the same prompts. One response of 1,024 may differ where rounding decides a token: 3 std / 1,024 = 3e-3.
    for name in ("objective/scores", "objective/kl"):
        assert two[done][name] == pytest.approx(one[done][name], abs=3e-3)
