"""Kill runs at random moments, run the same command again, and compare the ends byte for byte. `make chaos`.

    whole kills    SIGKILL to the driver's process group and everything that Ray started, `--kills` times a run
    actor kills    SIGKILL to the fleet's actor only, in every stage; the command is not started again
    Ray kills      SIGKILL to all of Ray but not to the driver, `--ray-kills` runs, each in another stage; likewise
    every 30 s     the embedded default under a kill every 30 s with 5 s checkpoints: useful time over elapsed time
    overhead       what journal, commits and checkpoints cost a run that nobody disturbs

Moments come from a printed seed, uniformly over the work of the undisturbed run; the clock stands while Ray and Python start.

    python -m tests.benchmarks.chaos [--runs 10] [--kills 5] [--actor-kills 20] [--ray-kills 10] [--default] [--seed S]
"""

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from loop.store.upkeep import verify

PROJECT = Path(__file__).parents[2]
MARK = "LOOP_CHAOS_MARK"
POLL_SECONDS = 0.02
ACTOR_TITLES = (b"ray::setup/", b"ray::round-", b"ray::Worker", b"ray::ready")
"""How Ray names the process of a fleet's actor; its agents and idle workers are named otherwise."""
SHORT = [
    "runtime.threads=1",  # on a busy machine, two threads wait for each other much longer than they compute
    "base.pretraining_steps=50",
    "data.num_pairs=560",
    "ppo.num_updates=10",
    "sample.num_prompts=140",
    "sample.heldout_fraction=0.3",
    "evaluate.num_prompts=256",
    "runtime.checkpoint_seconds=2",
]
"""Two rounds of every stage in about a minute on two cores, start included."""


class Run:
    """One run in a folder of its own, with a base cache of its own, so that the base is made (and killed) as well."""

    def __init__(self, folder: Path, settings: list[str], environment: dict[str, str] | None = None):
        self.folder, self.settings, self.mark = folder, settings, secrets.token_hex(8)
        self.environment = environment or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.clock, self.attempts = 0.0, 0
        self.startups: list[dict[str, float]] = []
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def journal(self) -> Path:
        return self.folder / "runs" / "chaos" / "journal.jsonl"

    def start(self, rounds: int = 2, settings: Sequence[str] = ()) -> None:
        """Type the command; `settings`: what this attempt is given in addition."""
        environment = os.environ | {"PYTHONPATH": str(PROJECT), "LOOP_CACHE": str(self.folder / "cache"), MARK: self.mark, "NO_COLOR": "1"}
        environment |= {"HF_HUB_OFFLINE": "1"} | self.environment
        command = [sys.executable, "-m", "loop", "run", "--name", "chaos", "--rounds", str(rounds), *self.settings, *settings]
        self.attempts += 1
        with (self.folder / f"log-{self.attempts}").open("wb") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True)

    def events(self) -> list[dict[str, Any]]:
        try:
            lines = self.journal.read_bytes().split(b"\n")[:-1]
        except OSError:
            return []
        return [json.loads(line) for line in lines]

    def go(self, until: float = float("inf")) -> bool:
        """Run until the clock, which counts work only, shows `until` (True), or to the end (False)."""
        assert self.process
        known, started = sum("startup" in event for event in self.events()), 0.0
        work, began = self.journal.parent / "work", 0.0
        while self.process.poll() is None:
            if not started and len(found := [event["startup"] for event in self.events() if "startup" in event]) > known:
                self.startups.append(found[-1])
                started, began = time.monotonic(), time.time()
            if (
                started
                and "first step" not in self.startups[-1]
                and any(path.stat().st_mtime > began for path in work.glob("*/progress.json"))
            ):
                self.startups[-1]["first step"] = time.monotonic() - started
            if started and self.clock + time.monotonic() - started >= until:
                self.clock += time.monotonic() - started
                return True
            time.sleep(POLL_SECONDS if started else 0.05)
        self.clock += time.monotonic() - started if started else 0.0
        return False

    def kill(self) -> float:
        """SIGKILL to the driver's process group and to all that Ray started. Returns the seconds since something was last kept."""
        assert self.process
        now = time.time()
        os.killpg(self.process.pid, signal.SIGKILL)
        while marked := self.marked():
            for pid in marked:
                strike(pid)
            time.sleep(0.02)
        self.process.wait()
        run = self.journal.parent
        kept = [self.journal, *run.glob("work/*/checkpoints/train/step-*"), *run.glob("work/*/checkpoints/*/*.json")]
        return now - max((path.stat().st_mtime for path in kept if path.exists()), default=now)

    def marked(self, *titles: bytes) -> list[int]:
        """The processes of this run, by the mark in their environment; `titles`: how their names may begin."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                ours = self.mark.encode() in (entry / "environ").read_bytes() and int(entry.name) != os.getpid()
                if (
                    ours
                    and (entry / "cmdline").read_bytes().startswith(titles or b"")
                    and b"State:\tZ" not in (entry / "status").read_bytes()
                ):
                    found.append(int(entry.name))
        return found

    def digests(self) -> dict[str, str]:
        """Stage -> digest of its committed manifest. Fails if `verify` finds damage."""
        if damage := verify(self.journal.parent)[0]:
            self.fail(f"damage: {damage}")
        manifests = sorted(self.journal.parent.glob("*/*/manifest.json"))
        return {f"{path.parts[-3]}/{path.parts[-2]}": json.loads(path.read_text())["digest"] for path in manifests}

    def stage_seconds(self) -> dict[str, float]:
        rows = [event for event in self.events() if event["event"] == "stage_committed"]
        return {stage_of(row): row["seconds"] for row in rows}

    def fail(self, why: str) -> None:
        logs = "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted(self.folder.glob("log-*"))[-2:])
        raise SystemExit(f"{why} in {self.folder}\n{logs}")


Harm = Callable[[Run, list[int]], None]
"""What is done to a run; it is handed the processes of the actors that work on the stage."""


def strike(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def undisturbed(folder: Path, settings: list[str]) -> Run:
    run = Run(folder, settings)
    run.start()
    run.go()
    if run.process is None or run.process.returncode:
        run.fail("the undisturbed run failed")
    return run


def kill_whole(run: Run, moments: list[float]) -> list[float]:
    """Kill the run at each moment of its clock, start it again each time, and let it finish. Returns the seconds of work lost by each kill.

    A run that is faster than the undisturbed one may finish before the last moments, which are then left out.
    """
    lost: list[float] = []
    for moment in moments:
        run.start()
        if not run.go(moment):
            break
        lost.append(run.kill())
    else:
        run.start()
        run.go()
    if run.process is None or run.process.returncode:
        run.fail(f"the run failed after {len(lost)} kills")
    return lost


def disturb(run: Run, harms: dict[str, tuple[float, Harm]]) -> None:
    """Start the run and let it end by itself.

    harms: stage ("setup/sft", "0/policy") -> (seconds after the stage began, what to do then). Each happens once.
    """
    run.start()
    assert run.process
    left = dict(harms)
    while run.process.poll() is None:
        for stage in list(left):
            if actors := run.marked(title_of(stage)):
                seconds, harm = left.pop(stage)
                time.sleep(seconds)
                harm(run, actors)
        time.sleep(POLL_SECONDS)
    if run.process.returncode:
        run.fail("the disturbed run did not end well")


def kill_actors(run: Run, actors: list[int]) -> None:
    """SIGKILL to the fleet's actors only."""
    for pid in actors:
        strike(pid)


def kill_ray(run: Run, actors: list[int]) -> None:
    """SIGKILL to all of Ray, and to the fleet's own process. The driver is left alone."""
    _kill_all_but(run, [])


def kill_ray_but_the_fleet(run: Run, actors: list[int]) -> None:
    """SIGKILL to all of Ray. The driver and the fleet's own process are left alone."""
    _kill_all_but(run, fleet_processes(run))


def _kill_all_but(run: Run, spared: list[int]) -> None:
    assert run.process
    for pid in set(run.marked()) - {run.process.pid, *spared}:
        strike(pid)


def title_of(stage: str) -> bytes:
    """How Ray names the process of an actor that works on a stage: "0/policy" -> b"ray::round-000/policy"."""
    number, name = stage.split("/")
    return (f"ray::setup/{name}" if number == "setup" else f"ray::round-{int(number):03d}/{name}").encode()


def fleet_processes(run: Run) -> list[int]:
    """The process between the driver and Ray."""
    return [pid for pid in run.marked() if b"loop.executors.actors" in (Path("/proc") / str(pid) / "cmdline").read_bytes()]


def stage_of(event: dict[str, Any]) -> str:
    """ "setup/sft" or "0/policy"; for an event that is not about a stage, something else."""
    return f"{event.get('round', 'setup')}/{event.get('stage')}"


def lost_in(run: Run) -> list[str]:
    """The stages that lost a worker, as the journal says."""
    return [event["stage"] for event in run.events() if event["event"] == "worker_lost"]


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--kills", type=int, default=5, help="whole kills a run")
    parser.add_argument("--actor-kills", type=int, default=20)
    parser.add_argument("--ray-kills", type=int, default=10)
    parser.add_argument("--default", action="store_true", help="also the embedded default: a kill every 30 s, and the overhead")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    say(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="loop-chaos-") as name:
        summary = measure(Path(name), options, rng)
    print(json.dumps(summary))


def measure(folder: Path, options: argparse.Namespace, rng: random.Random) -> dict[str, Any]:
    reference = undisturbed(folder / "reference", SHORT)
    expected, work = reference.digests(), reference.clock
    say(f"undisturbed: {work:.1f} s of work, {len(expected)} stages; start {format_startup(reference.startups)}")
    lost, equal, clocks, startups = [], 0, [], []
    for number in range(options.runs):
        run = Run(folder / f"whole-{number}", SHORT)
        moments = sorted(rng.uniform(0.0, work) for _ in range(options.kills))
        losses = kill_whole(run, moments)
        same = run.digests() == expected
        lost, equal, clocks, startups = lost + losses, equal + same, [*clocks, run.clock], startups + run.startups[1:]
        at, seconds = ", ".join(f"{moment:.1f}" for moment in moments), ", ".join(f"{loss:.1f}" for loss in losses)
        say(f"run {number}: killed at {at} s, lost {seconds} s, {'equal' if same else 'DIFFERENT'}")
        shutil.rmtree(run.folder)
    if lost:
        say(f"{len(lost)} kills: lost {statistics.mean(lost):.1f} s each, at most {max(lost):.1f} s; start {format_startup(startups)}")
    seconds = reference.stage_seconds()
    counts = dict.fromkeys((name.split("/")[1] for name in seconds), 0)
    actor_runs = actor_equal = 0
    while options.actor_kills and (sum(counts.values()) < options.actor_kills or min(counts.values()) < 2) and actor_runs < 12:
        wanted = [name for name in seconds if counts[name.split("/")[1]] < 2] or list(seconds)
        targets = rng.sample(wanted, min(6, len(wanted)))
        run = Run(folder / f"actor-{actor_runs}", SHORT)
        disturb(run, {name: (rng.uniform(0.0, seconds[name]), kill_actors) for name in targets})
        for stage in lost_in(run):
            counts[stage] += 1
        actor_runs, actor_equal = actor_runs + 1, actor_equal + (same := run.digests() == expected)
        say(f"run {actor_runs}: actor killed in {', '.join(lost_in(run))}; {'equal' if same else 'DIFFERENT'}")
        shutil.rmtree(run.folder)
    order = rng.sample(list(seconds), len(seconds))
    ray_equal = 0
    for number in range(options.ray_kills):
        name = order[number % len(order)]
        run = Run(folder / f"ray-{number}", SHORT)
        disturb(run, {name: (rng.uniform(0.0, seconds[name]), (kill_ray, kill_ray_but_the_fleet)[number % 2])})
        ray_equal += (same := run.digests() == expected)
        say(f"run {number}: Ray killed in {name}, noticed in {', '.join(lost_in(run)) or 'no stage'}; {'equal' if same else 'DIFFERENT'}")
        shutil.rmtree(run.folder)
    summary = {
        "kills": len(lost),
        "runs": options.runs,
        "equal_runs": equal,
        "actor_kills": sum(counts.values()),
        "actor_runs": actor_runs,
        "actor_equal_runs": actor_equal,
        "ray_kills": options.ray_kills,
        "ray_equal_runs": ray_equal,
        "useful_fraction": round(work * len(clocks) / sum(clocks), 3) if clocks else None,
        "overhead_fraction": round(overhead(reference), 3),
    }
    return summary | (of_the_default(folder, summary) if options.default else {})


def of_the_default(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The embedded default: undisturbed with checkpoints at the default interval and without, then killed every 30 s."""
    without = undisturbed(folder / "without", ["runtime.checkpoint_seconds=1000000"])
    plain = undisturbed(folder / "plain", [])
    between = overhead(plain)
    difference = sum(plain.stage_seconds().values()) / sum(without.stage_seconds().values()) - 1.0
    say(f"default: {plain.clock:.1f} s of work; journal and commits {between:.1%}; checkpoints in the stages {difference:+.1%}")
    run = Run(folder / "every-30", ["runtime.checkpoint_seconds=5"])
    losses = []
    while True:
        run.start()
        if not run.go(run.clock + 30.0):
            break
        losses.append(run.kill())
    same = run.digests() == plain.digests()
    say(
        f"default, a kill every 30 s: {len(losses)} kills, lost {statistics.mean(losses):.1f} s a kill, at most {max(losses):.1f} s; "
        f"{plain.clock:.1f} s of work took {run.clock:.1f} s; start {format_startup(run.startups)}; {'equal' if same else 'DIFFERENT'}"
    )
    return {
        "useful_fraction": round(plain.clock / run.clock, 3),
        "overhead_fraction": round(between + max(0.0, difference), 3),
        "default_equal": same,
        "short_useful_fraction": summary["useful_fraction"],
    }


def overhead(run: Run) -> float:
    """Share of the work that is not the stages': journal, commits, hashing. Checkpoints are inside the stages."""
    return 1.0 - sum(run.stage_seconds().values()) / run.clock


def format_startup(startups: list[dict[str, float]]) -> str:
    startups = [row for row in startups if "first step" in row]
    means = {name: statistics.mean(row[name] for row in startups) for name in startups[0]}
    return f"{sum(means.values()):.1f} s (" + ", ".join(f"{name} {value:.1f}" for name, value in means.items()) + ")"


if __name__ == "__main__":
    main()
