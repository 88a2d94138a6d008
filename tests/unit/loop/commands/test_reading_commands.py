"""The commands that only read runs: list, samples, logs, report."""

import errno
import json
import os
import shutil

import pytest

from configs import load_config
from configs.errors import UserError
from loop.commands.main import main
from loop.commands.overview import aligned
from loop.printing import UNPRINTABLE
from loop.report.experiment import experiment_page
from loop.store.journal import Journal
from loop.store.layout import RunFolder
from loop.store.run_config import record_start
from tests.unit.loop.report.hostile import hostile_texts
from tests.unit.loop.report.made import SETTINGS, make_run


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "first")
    return tmp_path / "runs"


def said(capsys, *words):
    assert main(words) == 0
    return capsys.readouterr().out


def test_list_shows_every_run_and_the_damaged_one(runs, capsys):
    make_run(runs / "experiment" / "arm-seed-0", golds=(2.5,))
    (runs / "torn").mkdir()
    (runs / "torn" / "journal.jsonl").write_text("nothing\n")
    rows = {row["run"]: row for row in json.loads(said(capsys, "list", "--json"))["runs"]}
    first = rows["first"]
    assert (first["state"], first["rounds"], first["num_rounds"], first["figure"]) == ("done", 2, 2, "gold 3.00 ± 0.05")
    assert rows["experiment/arm-seed-0"]["figure"] == "gold 2.50 ± 0.05" and rows["torn"]["state"] == "damaged"


def test_columns_stand_below_each_other_in_any_script():
    """Thai vowels and tones above and below a letter take no place of their own, and Chinese letters take two."""
    rows = aligned([("run", "state"), ("น้ำใจดี", "done"), ("芒果", "done"), ("first", "done")])
    assert rows == ["run    state", "น้ำใจดี  done", "芒果   done", "first  done"]


def test_a_run_of_an_experiment_has_a_name_of_two_parts(runs, capsys):
    make_run(runs / "experiment" / "arm-seed-0", golds=(2.5,))
    for command in ("status", "logs", "samples", "report"):
        said(capsys, command, "experiment/arm-seed-0")
    assert (runs.parent / "experiment-arm-seed-0.html").is_file()
    assert main(["status", "experiment"]) == main(["status", "first/../first"]) == main(["status", "experiment/none"]) == 2
    capsys.readouterr()
    assert main(["status", "arm-seed-0"]) == 2
    assert "there is no run 'arm-seed-0', did you mean 'experiment/arm-seed-0'?" in capsys.readouterr().err
    shutil.rmtree(runs / "first")
    assert main(["resume"]) == 2
    err = capsys.readouterr().err
    assert "there are only runs of experiments" in err and "name one of them, for example experiment/arm-seed-0" in err


def test_a_path_that_cannot_be_used_gets_one_message(runs, capsys):
    """Names of files have 255 bytes at most."""
    for words in (["list", "--runs", "n" * 300], ["report", "n" * 300], ["report", "first", "--output", "n" * 300]):
        assert main(words) == 2
        assert "error: File name too long\n  where: " in capsys.readouterr().err


def test_a_folder_that_is_closed_to_this_user_holds_no_run(runs, capsys, monkeypatch):
    """Such as `lost+found`, where the runs are at the top of a disk. The tests may run as root, to whom nothing is closed."""
    (runs / "lost+found").mkdir()
    stat = os.stat

    def closed(path, *more, **options):
        if "lost+found/" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, *more, **options)

    monkeypatch.setattr(os, "stat", closed)
    assert [row["run"] for row in json.loads(said(capsys, "list", "--json"))["runs"]] == ["first"]
    assert "first: done" in said(capsys, "status", "first")


def test_an_empty_variable_names_no_folder_of_runs(runs, capsys, monkeypatch):
    monkeypatch.setenv("LOOP_RUNS", "")
    assert [row["run"] for row in json.loads(said(capsys, "list", "--json"))["runs"]] == ["first"]


def test_a_round_counts_when_it_is_evaluated(runs, capsys):
    """The first stages of round 1 are done, and no other one has begun."""
    folder = RunFolder(make_run(runs / "half", golds=(2.0,)).folder.path)
    journal = Journal(folder.journal)
    journal.append("run_started", num_rounds=2)
    journal.append("stage_committed", stage="reward", round=1, seconds=1.0, metrics={"pairs": 1})
    rows = {row["run"]: row for row in json.loads(said(capsys, "list", "--json"))["runs"]}
    assert (rows["half"]["rounds"], rows["half"]["num_rounds"], rows["half"]["state"]) == (1, 2, "interrupted")


def test_samples_can_be_picked_and_sorted(runs, capsys):
    """Round 1 has 4 answers to held-out prompts and 8 labeled ones, of which each second has the selector's score 1."""
    assert said(capsys, "samples").endswith("12 of 12 answers\n")
    rows = [json.loads(line) for line in said(capsys, "samples", "--sort", "score", "--json", "--limit", "5").splitlines()]
    assert [row["scores"]["selector"] for row in rows] == [1, 1, 1, 1, 0]
    assert "selector 0.00" in said(capsys, "samples", "--sort", "score", "--ascending", "--limit", "1")
    assert said(capsys, "samples", "--round", "sft", "--prompt", "CAT eat").count("A cat eats fish.") == 1
    assert said(capsys, "samples", "--defect", "empty").startswith("0 of 0")


def test_samples_finds_by_a_rule_that_the_run_does_not_ask(runs, capsys):
    """Most rules are not asked by default, so there would be no answer, and no word of why."""
    make_run(runs / "lists", golds=(), answers=["- a cat\n- a dog"])
    out = said(capsys, "samples", "lists", "--defect", "list_only", "--round", "sft")
    assert "rule list_only" in out and not out.endswith("0 of 0 answers\n")
    assert "rule" not in said(capsys, "samples", "lists", "--round", "sft")


def test_samples_are_printed_without_control_characters(runs, capsys):
    for number, text in enumerate(hostile_texts(34)):
        make_run(runs / f"h{number}", golds=(), answers=[text], settings=SETTINGS)
        out = said(capsys, "samples", f"h{number}", "--prompt", "p0")
        assert not UNPRINTABLE.search(out) and len(out) < 20_000
        out.encode("utf-8")


@pytest.mark.parametrize("words", [["--round", "7"], ["--round", "x"], ["--defect", "emty"], ["--sort", "beauty"]])
def test_wrong_words_are_refused(runs, words, capsys):
    assert main(["samples", "first", *words]) == 2
    assert "use one of" in capsys.readouterr().err


def test_logs_shows_what_happened_and_the_log_files(runs, capsys):
    (runs / "first" / "logs").mkdir()
    (runs / "first" / "logs" / "ray.log").write_bytes(b"old\n" * 50 + b"new \x1b[2J\xff\n")
    out = said(capsys, "logs", "first", "--lines", "2")
    assert "stage committed  round-001/evaluate  1.5 s" in out and "run done" in out and "\\u001b" in out
    assert out.count("old") == 1


def test_logs_shows_no_secret(runs, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    (runs / "first" / "logs").mkdir()
    (runs / "first" / "logs" / "ray.log").write_text("401 for hf_abcdefgh at http://me:pass1234@hub/x\n")
    out = said(capsys, "logs", "first")
    assert "401 for *** at http" in out and "hf_abcdefgh" not in out and "pass1234" not in out


def test_logs_shows_no_secret_of_which_only_the_settings_say_that_it_is_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JUDGE", "judges-secret")
    monkeypatch.setenv("TRANSLATOR", "translators-secret")
    run = RunFolder(tmp_path / "runs" / "x")
    run.ray_log.parent.mkdir(parents=True)
    record_start(run.path, Journal(run.journal), load_config(overrides=["judge.key_variable=JUDGE", "pivot.key_variable=TRANSLATOR"]))
    run.ray_log.write_text("401 for judges-secret and translators-secret\n")
    assert "401 for *** and ***" in said(capsys, "logs", "x", "--runs", str(tmp_path / "runs"))
    run.config.write_text("edited: true\n")
    assert "401 for" in said(capsys, "logs", "x", "--runs", str(tmp_path / "runs"))


def test_report_writes_one_file(runs, capsys):
    out = said(capsys, "report", "first", "--output", "page.html")
    assert "Yes: +2.00 in true reward" in out and "written to page.html" in out
    assert (runs.parent / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_report_of_two_runs_has_a_name_of_both(runs, capsys):
    make_run(runs / "second", golds=(2.5,))
    said(capsys, "report", "first", "second")
    assert (runs.parent / "first-second.html").is_file()
    assert main(["report", "first", "first"]) == 2 and main(["report", "first", "--output", "no/folder.html"]) == 2


def test_the_report_of_an_experiment_has_its_tables_and_plots(runs, capsys):
    folder = runs / "iterate"
    folder.mkdir()
    label = {"metric": "evaluate.gold", "round": "last"}
    values = [label | {"arm": arm, "seed": seed, "value": 1.0 + seed} for arm in "ab" for seed in (0, 1)]
    means = [label | {"arm": arm, "mean": 1.5, "standard_error": 0.5, "count": 2} for arm in "ab"]
    difference = {"mean": 0.4, "standard_error": 0.1, "low": 0.2, "high": 0.6, "count": 2, "positive": 2, "kl": {"a": 1.0, "b": None}}
    results = {
        "experiment": "iterate",
        "command": "loop experiment x.yaml",
        "seeds": [0, 1],
        "all_seeds": [0, 1],
        "arms": {arm: {"kind": "rounds", "rounds": 1, "changes": changes} for arm, changes in (("a", {"rounds": 1, "seed": 3}), ("b", {}))},
        "values": values,
        "means": means,
        "differences": [label | {"arm": "a", "minus": "b"} | difference] * 7,
    }
    (folder / "results.json").write_text(json.dumps(results))
    assert "+0.400" in said(capsys, "report", "iterate")
    text = (runs.parent / "iterate.html").read_text(encoding="utf-8")
    assert "Differences in evaluate.gold" in text and "+0.200 to +0.600" in text
    assert ">seed=3</td>" in text and ">the base</td>" in text and ">true reward of the embedded world (evaluate)</td>" in text
    assert "First come 6 of 7 differences" in text and text.count('class="answer') == 6
    (folder / "results.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        experiment_page(folder)
