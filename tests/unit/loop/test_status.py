"""What `status` shows of a run that is running, and that paths of a run directory are built in one file."""

import json
import re
from pathlib import Path

import pytest

from loop.commands.main import main
from loop.store.journal import Journal
from loop.store.layout import RunFolder, runs_in
from loop.store.lock import one_writer
from loop.store.progress import ProgressFile

LOOP = Path(__file__).parents[3] / "loop"


@pytest.fixture
def run(tmp_path):
    """A run that has finished SFT and is in the middle of PPO."""
    run = RunFolder(tmp_path / "x")
    work = run.work("policy", 0)
    work.path.mkdir(parents=True)
    journal = Journal(run.journal)
    journal.append("run_started", num_rounds=2)
    journal.append("stage_committed", stage="sft", digest="d", manifest="m", seconds=12.3, metrics={"loss": 0.66})
    journal.append("stage_started", round=0, stage="policy")
    ProgressFile(work.progress).write(3, 40, {"objective/scores": 0.5, "objective/kl": 0.25}, ["an answer"])
    return run


def status(run, capsys, *words):
    assert main(["status", "--runs", str(run.path.parent), *words]) == 0
    return capsys.readouterr().out


def test_a_running_stage_shows_how_far_it_is(run, capsys):
    with one_writer(run.path):
        assert status(run, capsys).splitlines() == [
            "x: running, 2 rounds",
            "setup/sft            done          12.3 s  loss 0.66",
            "round-000/policy     running               3 of 40  scores 0.50, kl 0.25",
        ]


def test_a_run_whose_process_has_died_is_interrupted(run, capsys):
    assert status(run, capsys).splitlines()[0] == "x: interrupted, 2 rounds"
    found = json.loads(status(run, capsys, "--json"))
    assert found["state"] == "interrupted" and [row["stages"]["reward"]["state"] for row in found["rounds"]] == ["pending", "pending"]


def test_half_a_fork_is_no_run(run):
    (run.path.parent / ".y.fork-1").mkdir()
    (run.path.parent / ".y.fork-1" / "journal.jsonl").touch()
    assert runs_in(run.path.parent) == [run]


def test_paths_of_a_run_are_built_in_one_file():
    """A file's name in quotes anywhere else would be a second place that knows where it is."""
    names = ["config.yaml", "journal.jsonl", "manifest.json", "progress.json", "ray.log", "failed-stage.log", "checkpoints"]
    pattern = re.compile(rf'"(?:{"|".join(map(re.escape, names))})"')
    found = {path.relative_to(LOOP).as_posix(): pattern.findall(path.read_text(encoding="utf-8")) for path in LOOP.rglob("*.py")}
    assert {path for path, literals in found.items() if literals} == {"store/layout.py"}, found
