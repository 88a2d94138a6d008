"""The path of every file in a run directory. Other modules ask here and never build such a path themselves.

    runs/<name>/
      config.yaml              every setting of the run, resolved
      journal.jsonl            one event a line (store/journal.py)
      lock                     held by the process that works on the run (store/lock.py)
      logs/ray.log             what Ray and its process print
      logs/failed-stage.log    the traceback of the last stage that failed
      logs/trackers.log        what the libraries of trackers print
      trackers/<name>/         what a tracker keeps (trackers/libraries.py)
      labeling/                who labels, and what they have skipped (labeling/page.py); the labels are where `labeler.path` says
      setup/<stage>/           committed stages before round 0
      round-000/<stage>/       committed stages of a round (store/artifacts.py)
      work/<place>-<stage>/    a stage that is not finished, for example work/round-000-policy/
        key                    the recipe that this work belongs to
        payload-<random>/      the output of one attempt
        checkpoints/           progress that a later attempt continues from (policies/checkpoints.py)
        progress.json          how far the stage is (store/progress.py)
        stop                   its presence asks the stage to save and stop
        beat-<rank>            a worker's sign of life (executors/heartbeat.py)
        word, word-<rank>      what shows that all workers see this directory (executors/shared_folder.py)

Must never import torch or Ray.
"""

import os
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"
"""In every committed stage: what the directory holds. It is written last."""
_PAYLOAD = "payload-"


def place(round_number: int | None) -> str:
    """The directory of a round's stages, relative to the run; None means the stages before round 0."""
    return "setup" if round_number is None else f"round-{round_number:03d}"


def stage_name(stage: str, round_number: int | None) -> str:
    """The name of a stage in messages and on Ray's dashboard, for example "round-001/policy". It is also its path in the run directory."""
    return f"{place(round_number)}/{stage}"


@dataclass(frozen=True)
class RunFolder:
    """The directory of one run."""

    path: Path

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.path.name

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def ray_log(self) -> Path:
        return self.path / "logs" / "ray.log"

    @property
    def failed_stage_log(self) -> Path:
        return self.path / "logs" / "failed-stage.log"

    @property
    def labeling(self) -> Path:
        return self.path / "labeling"

    @property
    def tracker_log(self) -> Path:
        return self.path / "logs" / "trackers.log"

    def tracker(self, name: str) -> Path:
        return self.path / "trackers" / name

    @property
    def all_work(self) -> Path:
        """The directory that holds the work directories of all unfinished stages."""
        return self.path / "work"

    def stage(self, stage: str, round_number: int | None) -> Path:
        """Where a stage is committed."""
        return self.path / place(round_number) / stage

    def work(self, stage: str, round_number: int | None) -> "StageWork":
        """Where a stage is made."""
        return StageWork(self.all_work / f"{place(round_number)}-{stage}")

    def places(self) -> list[Path]:
        """The directories that hold committed stages."""
        return sorted([*self.path.glob("setup"), *self.path.glob("round-*")])


@dataclass(frozen=True)
class StageWork:
    """The work directory of one unfinished stage."""

    path: Path

    @property
    def key(self) -> Path:
        return self.path / "key"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def progress(self) -> Path:
        return self.path / "progress.json"

    @property
    def stop(self) -> Path:
        return self.path / "stop"

    def beat(self, rank: int) -> Path:
        return self.path / f"beat-{rank}"

    @property
    def word(self) -> Path:
        return self.path / "word"

    def answer(self, rank: int) -> Path:
        return self.path / f"word-{rank}"

    def payload(self, attempt: str) -> Path:
        return self.path / f"{_PAYLOAD}{attempt}"

    def payloads(self) -> list[Path]:
        """What earlier attempts have left, if anything."""
        return sorted(self.path.glob(f"{_PAYLOAD}*"))

    def last_checkpoint(self) -> str | None:
        """The name of the newest training checkpoint, for the journal."""
        saved = sorted(path.name for path in self.checkpoints.glob("train/step-*"))
        return saved[-1] if saved else None


def runs_in(folder: Path) -> list[RunFolder]:
    """The runs in a directory of runs. A name that begins with a dot is the beginning of a fork that did not finish (forks.py)."""
    journals = folder.glob(f"*/{RunFolder(Path()).journal}")
    return [RunFolder(journal.parent) for journal in sorted(journals) if not journal.parent.name.startswith(".")]


def runs_of_experiments(folder: Path) -> dict[str, RunFolder]:
    """The runs of the experiments in a directory of runs, by their name there: EXPERIMENT/RUN. A directory that is closed to this user,
    such as `lost+found` of a disk, holds none."""
    experiments = [child for child in sorted(folder.glob("*")) if child.is_dir() and not os.path.exists(RunFolder(child).journal)]
    return {f"{experiment.name}/{run.name}": run for experiment in experiments for run in runs_in(experiment)}


def all_runs(folder: Path) -> dict[str, RunFolder]:
    """The runs in a directory of runs by name, also those of experiments (EXPERIMENT/RUN)."""
    return {run.name: run for run in runs_in(folder)} | runs_of_experiments(folder)
