"""Export and import: what goes out in the form of another tool comes back as the same labels."""

import fcntl
import json
from pathlib import Path

import pytest

from loop.commands.main import main
from loop.labeling.answers import AnswerFile
from loop.labeling.transfer import FORMS, export, import_labels
from rewards.comparisons import answer_id
from tests.unit.loop.labeling.made import asked_in, make_run, plain_samples, queue_of, rows

LABELS = Path("labels/round-0.jsonl")
SAID = ("chosen_id", "rejected_id", "tie", "rater", "shown_first")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Twelve pairs. Two raters have said something of each of the first ten."""
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "runs" / "x", plain_samples(12))
    queue = queue_of(run, double=1.0)
    for number in range(10):
        for rater in ("ann", "บ๊อบ"):
            queue.answer(rater, queue.asked.pairs[number].name, ("left", "right", "tie")[number % 3], '=a "note",\nof two lines')
    return run


def said(path):
    """What a label file says. The answers of a tie have no order."""
    found = []
    for row in rows(path):
        first = row[f"{row['shown_first']}_id"]
        sides = sorted((row["chosen_id"], row["rejected_id"])) if row["tie"] else [row["chosen_id"], row["rejected_id"]]
        found.append((*sides, row["tie"], row["rater"], first))
    return sorted(found)


@pytest.mark.parametrize("form", FORMS)
def test_labels_come_back_as_they_went_out(run, tmp_path, form):
    file, back = tmp_path / f"out.{'csv' if form == 'csv' else 'json'}", tmp_path / "back.jsonl"
    text, count = export(asked_in(run), rows(LABELS), form)
    file.write_text(text, encoding="utf-8")
    done = import_labels(asked_in(run), file, AnswerFile(back))
    assert (count, done.new, done.known) == (20, 20, 0) and said(back) == said(LABELS)
    assert len(done.left_out) == (2 if form in ("label-studio", "argilla") else 0)  # the pairs without a label
    again = import_labels(asked_in(run), file, AnswerFile(back))
    assert (again.new, again.known) == (0, 20) and len(rows(back)) == 20
    if form in ("json", "csv"):
        assert all(row["comment"].startswith("=a") and row["round"] == 0 and row["labeled_at"] for row in rows(back))


def test_rows_that_cannot_be_used_are_counted_with_their_place(run, tmp_path):
    ids = sorted(asked_in(run).pairs[11].ids)
    first = rows(LABELS)[0]
    turned = first | {"chosen_id": first["rejected_id"], "rejected_id": first["chosen_id"], "tie": False}
    lines = [
        {"prompt": "question 11?", "chosen": "answer 11-1", "rejected": "answer 11-0", "rater": "eve\u202e", "round": 0},
        turned,
        {"chosen_id": ids[0], "rejected_id": "0-0-x-1"},
        {"chosen_id": ids[0], "better": 1},
    ]
    file = tmp_path / "theirs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "not JSON\n")
    done = import_labels(asked_in(run), file, AnswerFile(LABELS))
    assert done.new == 1 and done.known == 0 and set(done.left_out) == {"line 2", "line 3", "line 4", "line 5"}
    assert rows(LABELS)[-1]["rater"] == "eve\\u202e" and rows(LABELS)[-1]["chosen_id"] in ids
    assert "ann has already labeled" in done.left_out["line 2"] and done.left_out["line 3"] == "about no pair of this round"
    assert done.lines()[0] == "1 labels imported, 0 were there already, 4 rows left out"


@pytest.mark.parametrize("by", ["ids", "texts"])
def test_labels_that_say_they_are_about_another_round_are_left_out(run, tmp_path, by):
    """The run would refuse the label file: the ids are of round 0. What says nothing of a round is about the one that is imported."""
    pair, texts = asked_in(run).pairs[11], {"prompt": "question 11?", "chosen": "answer 11-1", "rejected": "answer 11-0"}
    row = texts if by == "texts" else {f"{name}_id": answer.id for name, answer in zip(("chosen", "rejected"), pair.answers, strict=True)}
    file, back = tmp_path / "theirs.jsonl", tmp_path / "back.jsonl"
    file.write_text(json.dumps(row | {"round": 1}) + "\n" + json.dumps(row | {"rater": "eve"}) + "\n")
    done = import_labels(asked_in(run), file, AnswerFile(back))
    assert (done.new, done.left_out) == (1, {"line 1": "about another round"}) and [row["rater"] for row in rows(back)] == ["eve"]


def test_another_verdict_of_somebody_nameless_is_named_so(run, tmp_path):
    ids = [answer.id for answer in asked_in(run).pairs[11].answers]
    (tmp_path / "theirs.jsonl").write_text("".join(json.dumps({"chosen_id": a, "rejected_id": b}) + "\n" for a, b in (ids, ids[::-1])))
    done = import_labels(asked_in(run), tmp_path / "theirs.jsonl", AnswerFile(tmp_path / "back.jsonl"))
    assert done.left_out == {"line 2": "a nameless rater has already labeled this pair"}


def test_the_command_exports_and_imports(run, tmp_path, capsys):
    assert main(["label", "x", "--export", "out.csv"]) == 0 and Path("out.csv").read_text().startswith("chosen_id,rejected_id,tie")
    assert main(["label", "x", "--export", "tasks.json", "--form", "label-studio"]) == 0
    tasks = json.loads(Path("tasks.json").read_text())
    assert len(tasks) >= 12 and {"data", "annotations"} <= set(tasks[0])
    LABELS.unlink()
    capsys.readouterr()
    assert main(["label", "x", "--import", "out.csv"]) == 0 and len(rows(LABELS)) == 20
    assert "20 labels imported" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["label", "x", "--round", "0"], "--round and --form are for --export and --import"),
        (["label", "x", "--round", "1", "--export", "a.csv"], "round 1 has no samples yet"),
        (["label", "x", "--export", "nowhere/a.csv"], "the labels cannot be written there"),
        (["label", "x", "--export", "labels/../labels/round-0.jsonl"], "this is the label file of the run"),
        (["label", "x", "--import", "nothing.jsonl"], "nothing.jsonl"),
        (["label", "x", "--export", "a.csv", "--import", "b.csv"], "--export and --import are both given"),
        (["label", "x", "--double", "2"], "must be a number from 0 to 1"),
        (["label", "x", "--host", "203.0.113.7", "--port", "0"], "the page cannot listen there"),
        (["label", "x", "--host", "a..b", "--port", "0"], "the page cannot listen there: this cannot be the name of a machine"),
        (["label", "x", "--host", ""], "must be an address, not empty"),
        (["label", "x", "--port", "65536"], "must be a whole number from 0 to 65535, not '65536'"),
    ],
)
def test_what_the_command_refuses(run, capsys, words, what):
    assert main(words) == 2 and what in capsys.readouterr().err


def test_no_file_that_the_run_reads_is_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "x", plain_samples(2), labeled_by=("labeler.kind=preferences-file", "labeler.path=labels/*"))
    (tmp_path / "labels").mkdir()
    for name in ("theirs.csv", "loop-label-round-000.jsonl"):
        (tmp_path / "labels" / name).write_text("here before")
        assert main(["label", "x", "--export", f"labels/{name}"]) == 2
        assert "this is the label file of the run" in capsys.readouterr().err
        assert (tmp_path / "labels" / name).read_text() == "here before"


def test_rows_of_the_round_are_exported_also_where_their_pairs_are_not_on_offer_any_more(run, capsys):
    """A row about policies, of round 0, and one of another round. The forms with texts have no texts for the first."""
    answers = [answer_id(0, policy, "w") for policy in (0, None)]
    with LABELS.open("a") as file:
        for ids in (answers, ["7-7-p-0", "7-7-p-1"]):
            file.write(json.dumps({"chosen_id": ids[0], "rejected_id": ids[1], "rater": "eve"}) + "\n")
        file.write('{"chosen_id": "')  # somebody is writing
    before = LABELS.read_bytes()
    for form, count in (("json", 21), ("csv", 21), ("argilla", 20), ("label-studio", 20)):
        assert main(["label", "x", "--export", "out", "--form", form]) == 0
        assert f"{count} labels of round 0 written" in capsys.readouterr().out
        assert (answers[1] in Path("out").read_text()) == (count == 21) and "7-7-p-0" not in Path("out").read_text()
    assert LABELS.read_bytes() == before


def test_nothing_is_imported_while_a_process_works_on_the_run(run, capsys):
    assert main(["label", "x", "--export", "out.csv"]) == 0
    LABELS.unlink()
    with run.lock.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["label", "x", "--import", "out.csv"]) == 2 and not LABELS.exists()
    assert "a process works on this run" in capsys.readouterr().err
    assert main(["label", "x", "--import", "out.csv"]) == 0 and len(rows(LABELS)) == 20
