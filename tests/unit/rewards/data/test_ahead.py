"""Rows that another process reads are the rows that this one would read."""

import json
import os
import signal

import psutil
import pytest

from configs import UserError
from configs.data import DataConfig
from configs.errors import LoopError
from rewards.data import ahead
from rewards.data.ahead import BATCH, read_ahead, read_rows
from rewards.data.counts import read_counted
from rewards.data.reading import read_source
from rewards.data.sources import find_sources
from rewards.data.unusable import Unusable

PAIRS = [{"prompt": f"ถาม {i}", "chosen": f"ดี {i}", "rejected": f"bad {i}", "rater": "ann"} for i in range(2 * BATCH + 5)]


@pytest.fixture
def source(tmp_path):
    """A file of pairs, three of which cannot be used, and one of which is normalized."""

    def write(rows, after=""):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) + after)
        (found,) = find_sources(DataConfig(source=str(path)))
        return found

    return write


def readers():
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_the_rows_are_the_same_in_the_same_order(source):
    rows = PAIRS[:300] + [PAIRS[0] | {"chosen": ""}, {"prompt": "นํ้า", "chosen": "a\u200bb", "rejected": "c"}, {"prompt": 1}] + PAIRS[300:]
    read = source(rows, after="{not JSON\n")
    found = list(read_ahead(read, True))
    assert found == list(read_source(read, True)) and len(found) == len(rows) + 1
    assert sum(isinstance(row, Unusable) for row in found) == 3
    assert not readers()


@pytest.mark.parametrize("count", [1, BATCH, 2 * BATCH])
def test_no_row_is_lost_at_the_end_of_a_batch(source, count):
    assert len(list(read_ahead(source(PAIRS[:count]), True))) == count


def test_only_large_files_are_read_by_another_process(source, monkeypatch):
    asked = []
    monkeypatch.setattr(ahead, "read_ahead", lambda *words: asked.append(words) or iter(()))
    read = source(PAIRS)
    assert len(list(read_rows(read, True))) == len(PAIRS) and not asked
    monkeypatch.setattr(ahead, "LARGE", sum(os.path.getsize(path) for path in read.files))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert list(read_rows(read, True)) == [] and asked == [(read, True)]


def test_an_error_comes_after_the_rows_before_it(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(PAIRS)[:-1])  # the array is not closed
    (read,) = find_sources(DataConfig(source=str(path)))
    rows = read_ahead(read, True)
    for _ in PAIRS:
        next(rows)
    with pytest.raises(UserError) as there:
        next(rows)
    with pytest.raises(UserError) as here:
        list(read_source(read, True))
    assert str(there.value) == str(here.value)


def test_a_row_that_is_refused_ends_the_other_process(source, monkeypatch):
    monkeypatch.setattr(ahead, "LARGE", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    read = source([*PAIRS[:5], {"prompt": 1}, *PAIRS])
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 6"):
        list(read_counted(DataConfig(source=read.config.path), 0, [], is_refused=True))
    assert not readers()


def test_a_reader_that_is_killed_is_named(source):
    rows = read_ahead(source(PAIRS * 20), True)
    next(rows)
    (reader,) = readers()
    reader.send_signal(signal.SIGKILL)
    with pytest.raises(LoopError, match=r"reads pairs was ended \(exit code -9\)"):
        list(rows)
