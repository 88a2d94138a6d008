"""Every row of a file comes out once: used, or left out for a reason. Files of all kinds, several sources, and broken files."""

import bz2
import gzip
import json
import lzma
import random

import pyarrow
import pyarrow.parquet
import pytest

from configs import UserError
from configs.data import DataConfig
from rewards.data import reading
from rewards.data.reading import read_source
from rewards.data.sources import find_sources
from rewards.data.unusable import Unusable
from tests.unit.rewards.data.sources import ROWS, lines, read, records


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("pairs.jsonl", bytes),
        ("PAIRS.JSONL", bytes),
        ("pairs.ndjson", bytes),
        ("pairs.jsonl.gz", gzip.compress),
        ("Pairs.JsonL.XZ", lzma.compress),
        ("pairs.jsonl.bz2", bz2.compress),
        ("pairs.jsonl.zst", lambda data: pyarrow.compress(data, "zstd", asbytes=True)),
    ],
)
def test_names_and_packers(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(lines(ROWS)))
    assert [r.chosen for r in records(tmp_path / name)] == [row["chosen"] for row in ROWS]
    (source,) = find_sources(DataConfig(source=str(tmp_path / name)))
    assert source.name.lower() == "pairs"


def test_tables_and_what_save_to_disk_wrote(tmp_path):
    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, tmp_path / "pairs.parquet", row_group_size=70)
    with pyarrow.OSFile(str(tmp_path / "pairs.arrow"), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)
    with pyarrow.OSFile(str(tmp_path / "stream.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)
    for name in ("pairs.parquet", "pairs.arrow", "stream.arrow"):
        rows = read(tmp_path / name)
        assert [row.records[0].chosen for row in rows] == [row["chosen"] for row in ROWS]
        assert rows[-1].place == f"{tmp_path / name}, row 300"
    (tmp_path / "broken.parquet").write_bytes((tmp_path / "pairs.parquet").read_bytes()[:-100])
    with pytest.raises(UserError, match="the data cannot be read"):
        read(tmp_path / "broken.parquet")


def test_folders_that_save_to_disk_wrote(tmp_path):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(tmp_path / "saved", num_shards=2)
    datasets.DatasetDict({"train": table, "test": table.select(range(3))}).save_to_disk(tmp_path / "both")
    assert len(records(tmp_path / "saved")) == 300
    assert [r.chosen for r in records(tmp_path / "both", split="test")] == ["good 0", "good 1", "good 2"]
    with pytest.raises(UserError, match="no split 'validation'"):
        read(tmp_path / "both", split="validation")


def test_a_data_set_of_the_hub(monkeypatch):
    """The hub cannot be reached from here, so a function stands in for what loads its data sets."""
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(*names, **settings):
        asked.append((names, settings))
        if names[0] == "somebody/none":
            raise ValueError("there is no such data set") from ConnectionError("ignored")
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = records("somebody/pairs", config_name="th", split="test", revision="v1")
    assert [r.chosen for r in found] == [row["chosen"] for row in ROWS] and {r.source for r in found} == {"somebody/pairs"}
    assert asked == [(("somebody/pairs", "th"), {"split": "test", "revision": "v1"})]
    (source,) = find_sources(DataConfig(source="somebody/pairs", split="validation"))
    assert next(iter(read_source(source, False))).place == "somebody/pairs, row 1"
    assert asked[-1][1] == {"split": "validation", "revision": None}
    with pytest.raises(UserError, match="the data set cannot be loaded: ignored"):
        read("somebody/none")


def test_a_pattern_is_one_source_with_several_files(tmp_path):
    for part in range(3):
        (tmp_path / f"part-{part}.jsonl").write_bytes(lines(ROWS[part * 100 : part * 100 + 100]))
    found = records(tmp_path / "part-*.jsonl")
    assert [r.chosen for r in found] == [row["chosen"] for row in ROWS] and len({r.source for r in found}) == 1


def test_several_files_are_several_sources(tmp_path):
    for name in ("a/pairs.jsonl", "b/pairs.jsonl", "c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(lines(ROWS[:1]))
    paths = [str(tmp_path / name) for name in ("a/pairs.jsonl", "b/pairs.jsonl", "c.jsonl")]
    sources = find_sources(DataConfig(source=paths))
    found = [(source.name, row.records[0].source) for source in sources for row in read_source(source, True)]
    assert found == [(p, p) for p in paths[:2]] + [("c", "c")]
    named = find_sources(DataConfig(sources=[{"path": paths[0], "name": "c"}, {"path": paths[2]}]))
    assert [source.name for source in named] == ["c", paths[2]]
    with pytest.raises(UserError, match="two sources have the name"):
        find_sources(DataConfig(source=[paths[0], paths[0]]))


def test_the_embedded_world_has_no_rows():
    assert find_sources(DataConfig()) == []


def test_a_source_of_which_nothing_can_be_read(tmp_path, monkeypatch):
    """A few broken lines are counted, because another source may have pairs. A long file of them is refused at once."""
    (tmp_path / "rows.jsonl").write_text("broken\n" * 30)
    assert [row.reason for row in read(tmp_path / "rows.jsonl")] == ["not JSON"] * 30
    monkeypatch.setattr(reading, "GIVEN_UP_AT", 20)
    with pytest.raises(UserError, match="none of the first 20 rows can be read; the first one: line 1 is not JSON"):
        read(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="cannot be told by its columns"):
        read(tmp_path / "rows.jsonl")


FUNCTIONS = """
import datetime

ROW = {"prompt": "q", "chosen": "a", "rejected": "b"}
CALL = {"role": "assistant", "tool_calls": [{"at": datetime.date(2026, 11, 28)}]}

def rows():
    yield ROW | {"at": datetime.date(2026, 11, 28)}
    yield ROW | {"prompt": [{"role": "user", "content": "half of a pair: \\ud800"}]}
    yield ROW | {"prompt": [{"role": "user", "content": "q"}, CALL, {"role": "tool", "content": "r"}]}

def nothing():
    pass

def numbers():
    yield ROW | {3: "c"}
"""


def test_rows_of_a_function_that_no_file_could_hold(tmp_path):
    """Each is left out by itself. A further column may hold anything."""
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    good, half, call = read(f"{tmp_path}/mine.py:rows")
    assert good.records[0].prompt == "q"
    assert [half.reason, call.reason] == ["half of a surrogate pair", "a call of a tool holds something that JSON does not have"]
    with pytest.raises(UserError, match="returned no rows but NoneType"):
        read(f"{tmp_path}/mine.py:nothing")
    with pytest.raises(UserError, match="row 1 has a column whose name is not text"):
        read(f"{tmp_path}/mine.py:numbers")


def test_broken_files_are_accounted_for(tmp_path):
    """500 files of lines that are cut, doubled, replaced by other JSON, or filled with bytes: each line is used, or left out once."""
    rng = random.Random(0)
    damages = [
        lambda line: line[: rng.randrange(len(line))],
        lambda line: line + line,
        lambda line: bytes(rng.randrange(256) for _ in range(9)).replace(b"\n", b""),
        lambda line: json.dumps(rng.choice([None, 3, "x", [], {}, {"chosen": 1, "rejected": {}, "prompt": []}])).encode(),
        lambda line: line.replace(b"question", b"\\ud800"),
        lambda line: line.replace(b'"', b"'", 1),
    ]
    for number in range(500):
        good = [json.dumps(row).encode() for row in ROWS[:6]]
        broken = [rng.choice(damages)(line) if rng.random() < 0.5 else line for line in good[1:]]
        content = [good[0], *(line for line in broken if line.strip(b" \t\r\n"))]
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(b"\n".join(content))
        rows = read(path, normalize=True)
        assert len(rows) == len(content)
        for row, line in zip(rows, content, strict=True):
            assert isinstance(row, Unusable) == (line not in good), line
            assert not isinstance(row, Unusable) or (row.reason and row.place and len(row.excerpt) <= 80)
