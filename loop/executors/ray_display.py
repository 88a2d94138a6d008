"""What people see of a run on Ray: workers that say what they do, and metrics for Prometheus.

`NamedWorker` is inside each actor, `RunMetrics` in the child process of the fleet. Workers of other executors, and the code of the stages,
know of neither. Nothing that a run computes depends on this file.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from ray._raylet import setproctitle  # type: ignore[attr-defined]
from ray.util.metrics import Counter, Gauge

from loop.executors.executor import StageRequest
from loop.executors.worker import Worker
from loop.printing import in_ascii, say
from loop.store.layout import StageWork, stage_name
from loop.store.measures import COUNTERS, RUNNING, TAGS_ON_RAY, find_measure, headline, live, name_on_ray, numbers
from loop.store.pace import Pace, samples_in_a_step
from loop.store.progress import Progress, read_progress
from policies.reporting import Report

TITLE_SECONDS = 1.0
LOG_SECONDS = 10.0
WHILE_RUNNING = ("steps_per_second", "samples_per_second", "tokens_per_second", "labels_waiting")
"""What is true of a running stage only."""
LOOK_SECONDS = 1.0
"""How often progress is read. Ray drops a gauge that was not set for 20 s, so all are set again each time."""


class NamedWorker(Worker):
    """A worker with a name, a log and a title.

    Ray asks for the name once, when the actor starts. What changes is in the title of the process, which `ps` and the page Cluster of the
    dashboard show, for example "ray::round-001/policy 312/500 · worker-0 of RUN". The log, which the dashboard shows for each stage, has
    the steps and their figures.
    """

    def __init__(self, rank: int, threads: int, run: str):
        super().__init__(rank, threads)
        self._name, self._stage = f"worker-{rank} of {run}", ""

    def __repr__(self) -> str:
        return self._name

    def run_stage(self, request: StageRequest) -> dict[str, Any]:
        """See `Worker.run_stage`. Its beginning and its end are lines of the log."""
        self._stage = stage_name(request["stage"], request["round"])
        self._log("begins")
        try:
            metrics = super().run_stage(request)
        except BaseException as error:
            self._log(f"has ended with {type(error).__name__}: {error}")
            raise
        self._log(f"is done  {headline(request['stage'], metrics)}".rstrip())
        return metrics

    def reporter(self, work: StageWork) -> Report:
        """See `Worker.reporter`. All workers show their progress, not only the main one."""
        tell, shown = super().reporter(work), {"title": 0.0, "log": time.monotonic()}

        told: set[str] = set()

        def report(done: int, total: int, metrics: Mapping[str, float] | None = None, texts: Sequence[str] = (), warning: str = "") -> None:
            tell(done, total, metrics, texts, warning)
            now = time.monotonic()
            if warning and warning not in told:
                told.add(warning)
                self._log(f"{done} of {total}  warning: {warning}")
            if now - shown["title"] >= TITLE_SECONDS:
                shown["title"] = now
                setproctitle(f"ray::{self._stage} {done}/{total} · {self._name}")
            if now - shown["log"] >= LOG_SECONDS:
                shown["log"] = now
                self._log(f"{done} of {total}  {live(metrics or {})}".rstrip())

        return report

    def _log(self, text: str) -> None:
        with suppress(OSError):  # a full disk of Ray's is no reason to lose a stage
            say(f"{datetime.now().isoformat(' ', 'seconds')}  {self._stage}  worker-{self.rank}  {text}")


class RunMetrics:
    """Serves the newest figures of a run: those of its running stage, and those of the stages that have finished since Ray started.

    Ray raises an error for a tag that is not ASCII, such as the name of a run or of a rater, so other letters are escapes there.

    Of each stage only the newest round is served, and of the runs of an experiment only the present one, because Prometheus keeps the
    earlier ones.
    """

    def __init__(self) -> None:
        self._gauges: dict[str, Gauge] = {}
        self._counters = {name: Counter(name_on_ray(name), measure.meaning, TAGS_ON_RAY[:3]) for name, measure in COUNTERS.items()}
        self._values: dict[tuple[str, str, str], tuple[str, float]] = {}
        """(metric, stage, part) -> (round, value)."""
        self._request: StageRequest | None = None
        self._pace, self._began, self._looked = Pace(), 0.0, 0.0
        self._resumes = False
        """Whether the next steps that are seen may be those of an earlier attempt."""

    def begin(self, request: StageRequest) -> None:
        """A stage begins, perhaps that of another run."""
        if self._request and self._request["config"]["name"] != request["config"]["name"]:
            self._values.clear()
        self._request, self._pace = request, Pace()
        self._resumes = any(StageWork(Path(request["work"])).checkpoints.glob("*/*"))
        self._began = self._looked = time.monotonic()

    def look(self) -> None:
        """Read the progress of the stage, unless it was read a moment ago."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self._take_progress()
            self._serve()

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """The stage has finished with these metrics."""
        self._take_progress()
        self._take(metrics)
        self._take({"seconds": time.monotonic() - self._began})
        self._count("stages_made", 1)
        assert self._request is not None
        for name in WHILE_RUNNING:
            self._values.pop((name, self._request["stage"], ""), None)
        self._serve()

    def _take_progress(self) -> None:
        assert self._request is not None
        now = read_progress(StageWork(Path(self._request["work"])).progress)
        steps, pace = self._pace.look(now), self._pace.steps_per_second
        if self._resumes and now.total:  # the first look sees the steps up to the checkpoint, which were counted when they were made
            steps, self._resumes = 0, False
        samples, length = samples_in_a_step(now.metrics, self._request["config"])
        for name, made in (("steps_made", steps), ("samples_made", steps * samples), ("tokens_made", steps * samples * length)):
            self._count(name, made)
        self._take(now.metrics)
        self._take(_running(self._request["stage"], now))
        if pace is not None:
            self._take({"steps_per_second": pace, "samples_per_second": pace * samples, "tokens_per_second": pace * samples * length})

    def _take(self, metrics: Mapping[str, Any]) -> None:
        """Keep those numbers whose meaning is known."""
        assert self._request is not None
        for number in numbers(metrics):
            if number.name in RUNNING or find_measure(number.name):
                self._values[number.name, self._request["stage"], number.part] = _round(self._request), number.value

    def _count(self, name: str, made: float) -> None:
        assert self._request is not None
        if made > 0:
            self._counters[name].inc(made, self._tags(self._request["stage"], _round(self._request)))

    def _serve(self) -> None:
        for (name, stage, part), (round_number, value) in self._values.items():
            self._gauge(name).set(value, self._tags(stage, round_number) | {"part": in_ascii(part)})

    def _gauge(self, name: str) -> Gauge:
        if name not in self._gauges:
            measure = RUNNING.get(name) or find_measure(name)
            assert measure is not None
            self._gauges[name] = Gauge(name_on_ray(name), f"{measure.meaning} ({measure.unit})", TAGS_ON_RAY)
        return self._gauges[name]

    def _tags(self, stage: str, round_number: str) -> dict[str, str]:
        assert self._request is not None
        return {"run": in_ascii(self._request["config"]["name"]), "round": round_number, "stage": stage}


def _running(stage: str, now: Progress) -> dict[str, float]:
    """What progress itself tells."""
    if not now.total:
        return {}
    found: dict[str, float] = {"steps_done": now.done, "steps_wanted": now.total}
    return found | ({"labels_waiting": now.total - now.done} if stage == "label" else {})


def _round(request: StageRequest) -> str:
    """The round as the value of a tag. The stages before round 0 have the value `setup`."""
    return "setup" if request["round"] is None else str(request["round"])
