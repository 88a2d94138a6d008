"""`loop data`: the tables of a config, its JSON, and messages for data that cannot be read."""

import json
import os

import pytest

from loop.commands.main import main
from loop.store.journal import Journal
from loop.store.layout import RunFolder


@pytest.fixture
def file(tmp_path):
    """40 Thai questions, the first of them twice, and five rows without an answer."""
    rows = [{"prompt": f"คำถามที่ {i}", "chosen": "ดีครับ", "rejected": "ไม่ดีครับ"} for i in [*range(40), 0]]
    rows += [{"prompt": "q", "chosen": "", "rejected": "b"}] * 5
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def lines_of(capsys):
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_tables_and_json(file, tmp_path, capsys):
    words = [f"data={file}", "curation.duplicates=remove", "--json", str(tmp_path / "found.json"), "--runs", str(tmp_path / "runs")]
    assert main(["data", *words]) == 0
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    entry, shown = found["ledger"]["pairs"], lines_of(capsys)
    assert entry["original"] == 46 and entry["removed"] == {"chosen is empty": 5, "said before": 1}
    assert f"pairs 46 6 {entry['moved']['held out']} {entry['kept']} 0" in shown
    assert "exact, within pairs 1" in shown and "pairs: Thai -> Thai 41" in shown
    assert f"chosen is empty 5 {file}, line 42; line 43; line 44; line 45; ..." in shown
    assert not (tmp_path / "runs").exists()


def test_a_run_shows_what_it_has_generated(file, tmp_path, capsys):
    """The settings are those of the run, so no source is named here."""
    run = RunFolder(tmp_path / "runs" / "mine")
    run.path.mkdir(parents=True)
    run.config.write_text(f"name: mine\ndata: {file}\nlabeler: {{kind: preferences-file, path: labels.jsonl}}\n", encoding="utf-8")
    journal = Journal(run.journal)
    journal.append("run_started", num_rounds=1)
    entry = {"original": 46, "kept": 41, "removed": {"chosen is empty": 5}, "moved": {}, "generated": {}}
    keep = {"generated": 9, "carried": 0, "kept": 7, "newly_kept": {"pairs": 7}, "left_out": {"empty": 2}}
    for stage, number, metrics in (("data", None, {"ledger": {"pairs": entry}}), ("sample", 0, {"samples": 9}), ("keep", 0, keep)):
        journal.append("stage_committed", stage=stage, round=number, digest="d", manifest="m", seconds=1.0, metrics=metrics)
    journal.append("stage_committed", stage="label", round=0, digest="d", manifest="m", seconds=1.0, metrics={"comparisons": 3})
    assert main(["data", "--name", "mine", "--runs", str(tmp_path / "runs")]) == 0
    shown = lines_of(capsys)
    assert "source original removed moved kept round-000" in shown
    assert any(line.startswith("pairs 46 5 ") and line.endswith(" 7") for line in shown)


def test_names_of_files_may_be_any_bytes(file, tmp_path, monkeypatch, capsys):
    """Also where Python's pipes are not in UTF-8."""
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    odd = os.fsdecode(os.fsencode(tmp_path / "คู่") + b"\xff.jsonl")
    file.rename(odd)
    assert main(["data", f"data={tmp_path}/*.jsonl", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["unusable"]["chosen is empty"]["places"][0] == f"{odd}, line 42"


def test_mistakes_get_one_message(file, tmp_path, capsys):
    assert main(["data", f"data={tmp_path}/nothing.jsonl"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["data", "embedded", "--config", "thai"]) == 2
    assert "named twice" in capsys.readouterr().err
    for target, what in (("nowhere/found.json", "cannot be written there"), (str(file), "would replace what is read")):
        assert main(["data", f"data={tmp_path}/*.jsonl", "--json", target]) == 2
        assert what in capsys.readouterr().err
    assert file.read_bytes().startswith(b'{"prompt"')


def test_what_a_function_prints_is_not_part_of_the_answer(tmp_path, capsys):
    function = tmp_path / "mine.py"
    function.write_text(
        "def rows():\n    print('hello')\n    return [{'prompt': f'q{i}?', 'chosen': 'yes', 'rejected': 'no'} for i in range(40)]\n"
    )
    assert main(["data", f"data={function}:rows"]) == 0
    assert any(line.startswith("rows 40 0 ") for line in lines_of(capsys))
