"""Memory runs out, the message names the setting to lower, and the run goes on from its checkpoint with the lower setting."""

import resource
import shutil
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.benchmarks.chaos import Run
from tests.integration.conftest import SMALL

pytestmark = pytest.mark.slow
SETTINGS = [
    *SMALL,
    "generation.batch_size=2048",
    "sample.num_prompts=64",
    "sample.num_completions=32",
    "ppo.batch_size=512",
    "ppo.num_minibatches=1",
    "ppo.num_updates=8",
    "runtime.checkpoint_seconds=0",
]
SPARE_BYTES = 40 * 2**20
"""Less than a batch of 2,048 samples needs (three arrays of 2,048 x 1,536 probabilities in float64 are 75 MB) and less than a minibatch of
512 rows needs in PPO; more than 64 samples or 16 rows need."""


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


def limit_memory(pid: int, limit: int | None = None, seconds: float = 0.1) -> int:
    """Let a process have `limit` bytes of data, or SPARE_BYTES more than the least that it has within some seconds."""
    limit = (
        limit if limit is not None else min(data_bytes(pid) for _ in range(int(seconds / 0.005)) if time.sleep(0.005) is None) + SPARE_BYTES
    )
    resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))
    return limit


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The undisturbed run."""
    run = Run(tmp_path_factory.mktemp("memory") / "reference", SETTINGS)
    run.start(rounds=1)
    assert run.process.wait(timeout=300) == 0
    return run


@pytest.fixture
def run(reference, tmp_path):
    """The same run once more, not yet started; the tiny base is there already."""
    run = Run(tmp_path / "run", SETTINGS)
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
    limit = limit_memory(worker_of(run, "round-000/sample"))
    assert "lower generation.batch_size (now 2048) and run the command again" in message(run)
    run.settings = [*SETTINGS, "generation.batch_size=64"]
    run.start(rounds=1)
    limit_memory(worker_of(run, "round-000/sample"), limit)
    assert run.process.wait(timeout=240) == 0
    assert run.digests() == reference.digests()


def test_a_smaller_micro_batch_goes_on_from_the_checkpoint(reference, run):
    """PPO's sums over rows are added in another order, so weights differ by rounding. An update moves them by about 4e-4."""
    run.start(rounds=1)
    pid = worker_of(run, "round-000/policy", "round-000-policy/checkpoints/train/step-*")
    limit = limit_memory(pid, seconds=1.0)  # an update takes less, so the least is what is held between two of them
    assert "round-000/policy ran out of memory" in (said := message(run)) and "lower ppo.micro_batch_size (now 512)" in said
    run.settings = [*SETTINGS, "ppo.micro_batch_size=16", "generation.batch_size=64"]
    run.start(rounds=1)
    limit_memory(pid := worker_of(run, "round-000/policy"), limit)
    while run.process.poll() is None and not (run.folder / "runs/chaos/round-000/policy").exists():
        time.sleep(0.01)
    limit_memory(pid, resource.RLIM_INFINITY)  # other stages need more
    assert run.process.wait(timeout=240) == 0
    resumed = [event.get("resumed") for event in run.events() if event["event"] == "stage_started" and event["stage"] == "policy"]
    assert resumed[0] is None and resumed[1] >= "step-00000001"
    before = ("setup/data", "setup/base", "setup/sft", "setup/baseline", "round-000/reward")
    ours, theirs = run.digests(), reference.digests()
    assert {name: ours[name] for name in before} == {name: theirs[name] for name in before}
    one, two = (load_file(each.folder / "runs/chaos/round-000/policy/adapter_model.safetensors") for each in (reference, run))
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5
