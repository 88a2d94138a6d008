"""Workers and Ray that die or freeze, and signals to the whole process group. `test_two_workers.py` has what needs two workers.

Starting Ray and the workers takes about ten seconds, so one run is disturbed in many ways, one after the other. Each way has its own
line in the journal, by which the test tells them apart.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from loop.store.journal import Journal
from tests.benchmarks.chaos import (
    ACTOR_TITLES,
    Run,
    disturb,
    kill_actors,
    kill_ray,
    kill_ray_but_the_fleet,
    strike,
)
from tests.integration.conftest import (
    RAY,
    SEED,
    SETTINGS,
    copy_before_ppo,
    ended,
    forget_progress,
    freeze,
    losses,
    said_by,
    stage_is_running,
    wait_for,
)

pytestmark = pytest.mark.slow
HANG_SECONDS = 5


def named(run: Run, word: bytes) -> list[int]:
    """The run's processes whose name contains `word`."""
    return [pid for pid in run.marked() if word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]]


def freeze_actors(run: Run, actors: list[int]) -> None:
    freeze(actors)


def freeze_raylet(run: Run, actors: list[int]) -> None:
    """The actors pause too, because a stage of a second would end before the fleet asks for the next sign of life, once a second."""
    freeze([*actors, *named(run, b"raylet")])
    time.sleep(3.0)
    for pid in actors:
        os.kill(pid, signal.SIGCONT)


def test_one_run_survives_every_way_to_lose_workers_and_ray(reference, tmp_path):
    """The command is typed once, and ends with the same bytes as an undisturbed run.

    A worker takes about ten seconds to start, so it is killed in three stages, which the seed chooses. `make chaos` kills it in every one.
    """
    rng, seconds = random.Random(SEED), reference.stage_seconds()
    killed = rng.sample(["setup/base", "setup/sft", "0/reward", "0/retrain", "0/evaluate"], 3)
    harms = {stage: (rng.uniform(0.0, seconds[stage] / 4), kill_actors) for stage in killed}
    harms |= {
        "0/policy": (0.5, freeze_actors),
        "1/reward": (0.0, kill_ray),
        "1/policy": (0.5, kill_ray_but_the_fleet),
        "1/retrain": (0.0, freeze_raylet),
    }
    run = Run(tmp_path / "run", [*SETTINGS, f"runtime.hang_seconds={HANG_SECONDS}"])
    disturb(run, harms)
    lost = losses(run)
    said = f"LOOP_CHAOS_SEED={SEED}: {lost}"
    assert ("0/policy", f"the workers gave no sign of life for {HANG_SECONDS} s") in lost, said
    assert {"1/reward", "1/policy"} <= {stage for stage, _ in lost}, said
    assert ("1/retrain", f"Ray gave no sign of life for {HANG_SECONDS} s") in lost, said
    assert sum(message == "a worker died" for _, message in lost) >= 2, said  # a stage may end before the signal arrives
    assert run.digests() == reference.digests(), said
    assert sum(row.restarts for _, _, row in Journal(run.journal).state().stages()) == len(lost)  # what `status` shows
    wait_for(lambda: not run.marked(), 20)


# -- one run that is stopped in many ways ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(reference, tmp_path_factory):
    """A run that each of the following tests starts again and stops in the middle of PPO. Only a signal makes a checkpoint here."""
    run = Run(tmp_path_factory.mktemp("stopped") / "run", [*SETTINGS, RAY, "runtime.checkpoint_seconds=1000"])
    copy_before_ppo(reference, run)
    return run


def checkpoints(run: Run) -> list[str]:
    return sorted(path.name for path in run.folder.glob("runs/chaos/work/round-000-policy/checkpoints/train/step-*"))


def start_and_wait_for_ppo(run: Run, *settings: str) -> None:
    """Start the run, and wait until this attempt has made a step of PPO."""
    forget_progress(run)
    run.start(settings=settings)
    wait_for(lambda: stage_is_running(run, "policy"))


def test_a_signal_to_the_whole_group_saves(stopped):
    """Schedulers and terminals send it to every process of the group, so to Ray as well."""
    start_and_wait_for_ppo(stopped)
    os.killpg(stopped.process.pid, signal.SIGTERM)
    assert stopped.process.wait(timeout=30) == 130, said_by(stopped)
    assert "finishing this step and saving" in said_by(stopped) and "Traceback" not in said_by(stopped)
    assert len(checkpoints(stopped)) == 1
    assert stopped.events()[-1]["event"] == "interrupted" and Journal(stopped.journal).state().state == "interrupted"


def test_the_next_start_resumes_and_saves_again(stopped):
    """Ctrl-C. The run resumes from the checkpoint of the test before."""
    before = checkpoints(stopped)
    start_and_wait_for_ppo(stopped)
    assert [event.get("resumed") for event in stopped.events() if event["event"] == "stage_started"][-1:] == before
    os.killpg(stopped.process.pid, signal.SIGINT)
    assert stopped.process.wait(timeout=30) == 130, said_by(stopped)
    assert checkpoints(stopped) > before


def test_a_second_signal_stops_at_once(stopped):
    before = checkpoints(stopped)
    start_and_wait_for_ppo(stopped)
    stopped.process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    stopped.process.send_signal(signal.SIGINT)
    assert stopped.process.wait(timeout=15) == 130, said_by(stopped)
    assert checkpoints(stopped) >= before


def test_the_driver_killed_takes_all_of_ray_with_it(stopped):
    """Frozen workers too."""
    start_and_wait_for_ppo(stopped)
    freeze(stopped.marked(*ACTOR_TITLES))
    strike(stopped.process.pid)
    stopped.process.wait()
    wait_for(lambda: not stopped.marked(), 20)


def test_too_many_lost_workers_end_the_command(stopped):
    start_and_wait_for_ppo(stopped, "runtime.max_restarts=0")
    kill_actors(stopped, stopped.marked(*ACTOR_TITLES))
    assert stopped.process.wait(timeout=60) == 4
    assert "a worker died" in said_by(stopped) and "Traceback" not in said_by(stopped)


def test_ray_killed_too_often_ends_the_command_with_one_message(stopped):
    start_and_wait_for_ppo(stopped, "runtime.max_restarts=0")
    kill_ray_but_the_fleet(stopped, [])
    assert stopped.process.wait(timeout=120) == 4
    assert (
        "a stage failed" in said_by(stopped)
        and "continues from the last checkpoint" in said_by(stopped)
        and "Traceback" not in said_by(stopped)
    )
    assert stopped.events()[-1]["event"] == "failed"
    wait_for(lambda: not stopped.marked(), 20)


def test_nothing_was_lost(stopped, reference):
    """After all these stops, the run ends with the same bytes as an undisturbed run."""
    assert ended(stopped).digests() == reference.digests()
