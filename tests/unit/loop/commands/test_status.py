"""What `status` shows of a run that is running."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loop.commands.main import main
from loop.store.journal import Journal
from loop.store.layout import RunFolder
from loop.store.lock import one_writer
from loop.store.progress import ProgressFile


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


def test_an_alarm_of_a_running_stage_is_below_its_line(run, capsys):
    ProgressFile(run.work("policy", 0).progress).write(30, 40, {}, ["an answer"], "the policy may exploit its reward")
    with one_writer(run.path):
        assert status(run, capsys).splitlines()[-1] == "  warning: the policy may exploit its reward"


def test_a_run_whose_process_has_died_is_interrupted(run, capsys):
    assert status(run, capsys).splitlines() == [
        "x: interrupted, 2 rounds",
        "setup/sft            done          12.3 s  loss 0.66",
        "round-000/policy     interrupted",
    ]
    found = json.loads(status(run, capsys, "--json"))
    assert found["state"] == "interrupted" and [row["stages"]["reward"]["state"] for row in found["rounds"]] == ["pending", "pending"]
    assert found["rounds"][0]["stages"]["policy"]["state"] == "interrupted" and found["setup"]["sft"]["state"] == "done"


def test_the_last_message_of_a_run_whose_process_has_died_stays(run, capsys):
    Journal(run.journal).append("worker_lost", round=0, stage="policy", message="Ray died")
    assert status(run, capsys).splitlines()[:2] == ["x: interrupted, 2 rounds", "Ray died"]


def test_warnings_are_below_the_line_of_their_stage(run, capsys):
    metrics = {"warnings": ["the reward model knows less\nthan word counts do", "another"]}
    Journal(run.journal).append("stage_committed", round=0, stage="reward", digest="d", manifest="m", seconds=1.0, metrics=metrics)
    lines = status(run, capsys).splitlines()
    where = next(i for i, line in enumerate(lines) if line.startswith("round-000/reward"))
    assert lines[where + 1 : where + 3] == ["  warning: the reward model knows less than word counts do", "  warning: another"]


def test_several_runs_have_a_line_each(run, capsys):
    """One that is running, one that is done, and one whose journal is damaged. `list` says the same, and is the same code."""
    done, damaged = (RunFolder(run.path.parent / name) for name in ("a-finished-run", "damaged"))
    for other in (done, damaged):
        other.path.mkdir()
        journal = Journal(other.journal)
        journal.append("run_started", num_rounds=1)
        journal.append("stage_committed", round=0, stage="evaluate", digest="d", manifest="m", seconds=1.0, metrics={"gold": 1.5})
        journal.append("run_done")
    damaged.journal.write_text(damaged.journal.read_text().replace("evaluate", "evaluata"))
    with one_writer(run.path):
        lines, found = status(run, capsys).splitlines(), json.loads(status(run, capsys, "--json"))["runs"]
        assert main(["list", "--runs", str(run.path.parent)]) == 0 and capsys.readouterr().out.splitlines() == lines
    assert [line.partition("20")[0].rstrip() for line in lines] == [  # up to the year in which they started
        "run             state    rounds  stage                      last figure  started",
        "a-finished-run  done     1 of 1  round-000/evaluate         gold 1.50",
        "damaged         damaged",
        "x               running  0 of 2  round-000/policy  3 of 40",
        "`loop status RUN` says more about one of them.",
    ]
    assert [(row["run"], row["state"], row["done"]) for row in found] == [
        ("a-finished-run", "done", 0),
        ("damaged", "damaged", 0),
        ("x", "running", 3),
    ]
    assert "line 2 of the journal is damaged" in found[1]["message"] and found[2]["started"].startswith("20")


def test_status_imports_nothing_that_it_does_not_need(run):
    """Other commands need the driver, the doctor and rich. `status` answered in 0.8 s while it imported them too."""
    code = f"import sys; from loop.commands.main import main; main(['status', '--runs', {str(run.path.parent)!r}]); print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    imported = set(out.splitlines()[-1].split())
    assert "loop.commands.status" in imported
    assert not imported & {"torch", "ray", "transformers", "rich", "psutil", "loop.driver", "loop.doctor", "loop.commands.run"}
