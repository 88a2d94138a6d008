"""Several sources together: what is drawn, what is asked, and that everything is accounted for."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from configs import UserError
from configs.data import DataConfig
from rewards.comparisons import Comparison, PromptRecord, read_jsonl
from rewards.curation.applying import FOR_THE_LABELER, SAID_BEFORE
from rewards.curation.deciding import BEYOND_MAX
from rewards.curation.ledger import HELD_OUT, PROMPTS
from rewards.data.counts import BEYOND_CAP
from rewards.data.drawing import Reservoir
from rewards.data.preference_data import load_preference_data
from rewards.data.row_files import RowFile, StoredRows
from rewards.data.splits import Split
from tests.benchmarks import large_file


@pytest.fixture
def files(tmp_path):
    """300 pairs, 100 pairs of which 10 are bad, and 200 prompts of which 50 are those of pairs."""

    def write(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    def pairs(name, count, bad=0):
        rows = [{"prompt": f"{name} {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(count)]
        return write(f"{name}.jsonl", rows + [rows[i] | {"chosen": ""} for i in range(bad)])

    prompts = [{"prompt": f"mail {i}"} for i in range(50)] + [{"prompt": f"question {i}"} for i in range(150)]
    return {"mail": pairs("mail", 300), "notes": pairs("notes", 90, bad=10), "asked": write("asked.jsonl", prompts)}


def load(files, folder=None, seed=0, **settings):
    return load_preference_data(DataConfig(sources=[{"path": path} for path in files.values()], **settings), seed, folder=folder)


def check_accounts(data):
    for count in data.counts:
        assert count.rows == count.used + count.left_out.total()
    for count in data.counts:
        entry = data.ledger.entries[count.source.name]
        assert entry.adds_up() and entry.original == count.pairs + count.prompts + count.answers + count.left_out.total()
    pairs = sum(len(part) for part in (data.pairs, data.heldout, data.labeler_pairs))
    assert pairs == sum(count.pairs for count in data.counts) - data.ledger.total().removed[BEYOND_MAX.why]


def test_sources_add_up(files):
    data = load(files)
    check_accounts(data)
    assert [(c.source.name, c.rows, c.used, c.pairs, c.prompts) for c in data.counts] == [
        ("mail", 300, 300, 300, 0),
        ("notes", 100, 90, 90, 0),
        ("asked", 200, 200, 0, 200),
    ]
    assert data.skipped == {"notes: chosen is empty": 10}
    assert Counter(pair.source for pair in [*data.pairs, *data.heldout]) == {"mail": 300, "notes": 90}
    assert data.by_source == Counter(pair.source for pair in data.pairs)
    # 390 prompts of pairs, and the 150 that no pair asks.
    prompts = [*data.prompts, *data.heldout_prompts]
    assert len(prompts) == len({prompt.prompt_id for prompt in prompts}) == 540
    assert Counter(prompt.source for prompt in prompts) == {"mail": 300, "notes": 90, "asked": 150}
    split, entry = Split(0, 0.22), data.ledger.entries["asked"]
    assert entry.removed == {SAID_BEFORE.why: 50} and entry.moved.total() == 150 and set(entry.moved) == {HELD_OUT, PROMPTS}
    assert all(split.holds_out(p.prompt) for p in data.heldout_prompts) and not any(split.holds_out(p.prompt) for p in data.prompts)


def test_prompts_of_the_labelers_part_are_not_asked(files):
    data = load(files, labeler_fraction=0.5)
    check_accounts(data)
    asked = {p.prompt for p in [*data.prompts, *data.heldout_prompts]}
    assert data.labeler_pairs and not asked & {pair.prompt for pair in data.labeler_pairs}
    left_out = data.ledger.entries["asked"].removed
    assert left_out[FOR_THE_LABELER.why] > 30 and len([p for p in asked if p.startswith("question")]) + left_out.total() >= 150


def test_answers_to_prompts_that_are_not_trained_on_are_left_out(files, tmp_path):
    """200 answers: those in training are kept. Their prompts are asked as any other, but 50 of them are prompts of pairs already."""
    rows = [
        {"question": json.loads(line)["prompt"], "answer": f"#### {i}"}
        for i, line in enumerate(Path(files["asked"]).read_text().splitlines())
    ]
    (tmp_path / "solved.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [{"path": files["mail"]}, {"path": str(tmp_path / "solved.jsonl"), "kind": "answers"}]
    data = load_preference_data(DataConfig(sources=sources, labeler_fraction=0.3), 0)
    check_accounts(data)
    split, counts = Split(0, 0.22, 0.3), data.counts[1]
    sides = Counter(split.side(row["question"]) for row in rows)
    assert counts.answers == 200 and len(data.answers) == sides["training"] > 80
    entry = data.ledger.entries["solved"]
    assert (entry.kept, entry.moved, entry.removed) == (
        sides["training"],
        {HELD_OUT: sides["heldout"]},
        {FOR_THE_LABELER.why: sides["labeler"]},
    )
    assert all(split.side(row.prompt) == "training" for row in data.answers)
    assert {row.prompt for row in data.answers} <= {row.prompt for row in data.prompts}
    asked = [row.prompt for row in [*data.prompts, *data.heldout_prompts]]
    assert len(asked) == len(set(asked))


def test_a_file_holds_what_memory_holds(files, tmp_path):
    in_memory, in_files = load(files), load(files, tmp_path)
    for name in ("pairs", "heldout", "labeler_pairs", "prompts", "heldout_prompts"):
        assert list(getattr(in_files, name)) == list(getattr(in_memory, name))
    assert isinstance(in_files.pairs, RowFile)


def test_a_cap_draws_rows_and_max_pairs_draws_pairs(files):
    sources = [{"path": files["mail"], "cap": 60}, {"path": files["notes"]}]
    data = load_preference_data(DataConfig(sources=sources, max_pairs=100), 0)
    check_accounts(data)
    assert data.counts[0].left_out == {BEYOND_CAP: 240} and data.counts[0].rows == 300
    assert len(data.pairs) + len(data.heldout) == 100
    numbers = [int(pair.prompt.split()[1]) for pair in data.pairs if pair.source == "mail"]
    assert numbers == sorted(numbers) and max(numbers) > 150
    other = load_preference_data(DataConfig(sources=sources, max_pairs=100), 1)
    assert {p.prompt for p in other.pairs} != {p.prompt for p in data.pairs}
    assert list(load_preference_data(DataConfig(sources=sources, max_pairs=100), 0).pairs) == list(data.pairs)


def test_bad_rows_can_be_refused(files):
    with pytest.raises(UserError, match="a row cannot be used: chosen is empty") as caught:
        load(files, bad_rows="refuse")
    assert caught.value.where.endswith("notes.jsonl, line 91")


def test_prompts_alone_are_no_data(files):
    with pytest.raises(UserError, match="no usable preference pair: asked holds prompts only"):
        load_preference_data(DataConfig(source=files["asked"]), 0)


def test_thai_is_normalised_unless_it_is_switched_off(tmp_path):
    rows = [{"prompt": f"น\u0e4d\u0e49\u0e32 {i}", "chosen": "ดี\u200bมาก", "rejected": "no"} for i in range(40)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_preference_data(DataConfig(source=str(tmp_path / "d.jsonl")), 0)
    assert data.changed == {"sara am": 40, "zero-width characters": 40}
    assert {p.chosen for p in data.pairs} == {"ดีมาก"} and all(p.prompt.startswith("น\u0e49\u0e33 ") for p in data.prompts)
    data = load_preference_data(DataConfig(source=str(tmp_path / "d.jsonl"), normalize=False), 0)
    assert not data.changed and {p.chosen for p in data.pairs} == {"ดี\u200bมาก"}


def test_changes_are_counted_in_one_order_in_every_process():
    """A set of texts has another order for each PYTHONHASHSEED, and these counts are written into a stage's output."""
    code = (
        "from collections import Counter; from rewards.data.normalizing import normalize; found = Counter();"
        "normalize('\\u200b\\u0e19\\u0e4d\\u0e32\\u00a0\\u0065\\u0301\\r', found); print(list(found))"
    )
    said = [subprocess.check_output([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, text=True) for seed in "012"]
    assert len(set(said)) == 1 and said[0].count(",") == 4


def test_the_benchmark_of_large_files_reads_its_file(tmp_path):
    rows = large_file.write(tmp_path / "pairs.jsonl", 100_000)
    assert large_file.parse(tmp_path / "pairs.jsonl") == rows
    assert large_file.load_all(tmp_path / "pairs.jsonl") == 2 * rows  # each pair, and its prompt
    assert large_file.one_pass(tmp_path / "pairs.jsonl") == rows
    assert large_file.filter_all(10_000, tmp_path / "pairs.jsonl") == 2 * rows
    assert large_file.filter_all(1, tmp_path / "pairs.jsonl") == 0


def test_what_becomes_equal_is_left_out(tmp_path):
    row = {"prompt": "q", "chosen": "ก\u200bข", "rejected": "กข"}
    (tmp_path / "d.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="1 x chosen and rejected are the same"):
        load_preference_data(DataConfig(source=str(tmp_path / "d.jsonl")), 0)


def test_a_reservoir_draws_each_item_alike():
    """10 of 100 items, 2,000 times: an item is drawn 200 times in the mean, with a standard deviation of sqrt(2000 x 0.1 x 0.9) = 13.4."""
    counted = Counter()
    for seed in range(2000):
        reservoir = Reservoir(10, seed)
        for item in range(100):
            reservoir.add(item)
        drawn = reservoir.drawn()
        assert len(set(drawn)) == 10 and drawn == sorted(drawn) and reservoir.added == 100
        counted.update(drawn)
    assert all(abs(counted[item] - 200) < 5 * 13.4 for item in range(100))
    assert sum((counted[item] - 200) ** 2 / 200 for item in range(100)) < 150  # chi-square with 99 degrees: mean 99 x 0.9, deviation 13


def test_a_weight_of_two_is_drawn_twice_as_often():
    """The first of the draws takes an item of weight 2 with probability 2 / 3, if the other has 1: 2,000 draws, deviation 21."""
    first = Counter()
    for seed in range(2000):
        reservoir = Reservoir(1, seed)
        reservoir.add("light", 1.0)
        reservoir.add("heavy", 2.0)
        first.update(reservoir.drawn())
    assert abs(first["heavy"] - 2000 * 2 / 3) < 5 * 21


def test_a_row_file_is_a_sequence(tmp_path):
    records = [PromptRecord(f"{i:016x}", "คำถาม" * i, "x") for i in range(50)]
    rows = RowFile(PromptRecord, tmp_path)
    for number, record in enumerate(records):
        rows.append(record)
        assert rows[number] == record and len(rows) == number + 1
    assert list(rows) == records and rows[-1] == records[-1] and rows[3:9:2] == records[3:9:2]
    with pytest.raises(IndexError):
        rows[50]
    rows.write(tmp_path / "rows.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    assert read_jsonl(tmp_path / "rows.jsonl", PromptRecord) == records
    stored = StoredRows.of(tmp_path / "rows.jsonl", PromptRecord)
    assert list(stored) == records and stored[-2:] == records[-2:] and len(stored) == 50
    copied = RowFile(PromptRecord, tmp_path)
    copied.append_line(stored.line(7))
    copied.append_line(rows.line(3))
    assert list(copied) == [records[7], records[3]]
    (tmp_path / "empty.jsonl").touch()
    assert not StoredRows.of(tmp_path / "empty.jsonl", PromptRecord)
    assert not RowFile(Comparison, tmp_path)
