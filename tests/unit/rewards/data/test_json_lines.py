"""The reader of other people's JSON lines: what JSON allows is read, anything else is refused with the line's number."""

import codecs
import gzip
import json

import pytest

from configs import UserError
from rewards.data import json_lines
from rewards.data.json_lines import read_json_lines, try_json, try_json_lines
from rewards.data.unusable import BadLine


def read(path, content):
    path.write_bytes(content)
    return list(read_json_lines(path))


@pytest.mark.parametrize("name", ["f.jsonl", "f.jsonl.gz"])
def test_what_is_legal(tmp_path, name):
    lines = [
        codecs.BOM_UTF8 + '{"a": "มะม่วง"}\r\n'.encode(),
        b" \r\n",
        '{"a": "one\u2028two\u2029three\u0085four\x0bfive"}\n'.replace("\x0b", "\\u000b").encode(),
        b'{"a": "\\ud83d\\ude00", "b": [1, -2.5e3, null, true]}\n',  # a whole surrogate pair is one character
        codecs.BOM_UTF8 + b'{"a": "no end of line"}',
    ]
    content = b"".join(lines)
    found = read(tmp_path / name, gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    assert found == [
        ("line 1", {"a": "มะม่วง"}),
        ("line 3", {"a": "one\u2028two\u2029three\u0085four\x0bfive"}),
        ("line 4", {"a": "😀", "b": [1, -2500.0, None, True]}),
        ("line 5", {"a": "no end of line"}),
    ]


def test_a_mark_alone_is_no_row(tmp_path):
    assert read(tmp_path / "f.jsonl", codecs.BOM_UTF8) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"a": "café"}'.encode("latin-1"), "not UTF-8 text: byte 0xe9 at position 11"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8 text: byte 0xff at position 1"),
        ('{"a": 1}'.encode("utf-16-le"), "UTF-16"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8 text"),  # a lone surrogate as bytes
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\uDC00": 1}', "surrogate"),
        (b'{"a": "x\x00"}', "NUL"),
        (b'{"a": NaN}', "NaN is not a JSON value"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON value"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too large"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
        (b'{"a": {"b": 1, "b": 1}}', "'b' is given twice"),
        (b'{"a": 1} {"a": 2}', "Extra data"),
        (b'{"a": "torn', "Unterminated string"),
        (b"{'a': 1}", "is not JSON"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
    ],
)
def test_what_is_refused(tmp_path, line, why):
    with pytest.raises(UserError, match=why) as caught:
        read(tmp_path / "f.jsonl", b'{"a": 0}\n' + line + b"\n")
    assert caught.value.where == f"{tmp_path / 'f.jsonl'}, line 2" and caught.value.to_do


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("f.jsonl.gz", b"no gzip"),
        ("f.jsonl.gz", gzip.compress(b'{"a": 1}\n', mtime=0)[:-6]),
        ("f.jsonl.gz", gzip.compress(b'{"a": "' + bytes(range(48, 90)) * 50 + b'"}', mtime=0)[:40]),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content):
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / name, content)


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        list(read_json_lines(tmp_path))


def test_real_broken_lines(shared_data):
    with pytest.raises(UserError, match="line 1 is not JSON"):
        list(read_json_lines(shared_data / "thai_prompts_broken" / "vincuna_th.BROKEN.jsonl"))


def test_an_array_or_lines_under_the_name_json(tmp_path):
    path = tmp_path / "f.json"
    path.write_bytes(codecs.BOM_UTF8 + b' [{"tie": "false"}, {"tie": true},\n {"tie": "2024-01-01"}]\n')
    assert list(try_json(path)) == [("row 1", {"tie": "false"}), ("row 2", {"tie": True}), ("row 3", {"tie": "2024-01-01"})]
    path.write_text('{"a": 1}\n{"a": 2}')
    assert list(try_json(path)) == [("line 1", {"a": 1}), ("line 2", {"a": 2})]


@pytest.mark.parametrize(
    ("content", "why", "place"),
    [
        ('[{"a": 1},\n{"a": 1, "a": 2}]', "'a' is given twice", ""),
        ('[{"a": 1},\n{"a" 2}]', "Expecting ':' delimiter at line 2, position 6", ""),
        ('[{"a": 1},\n3]', "row 2 is not a JSON object", ", row 2"),
        ('[{"a": 1}', "Expecting ',' delimiter at line 1, position 10", ""),
        ('[{"a": 1}, {"a": "open', "Unterminated string", ""),
        ('[{"a": 1}]\n{', "Extra data at line 2, position 1", ""),
    ],
)
def test_arrays_that_are_refused(tmp_path, content, why, place):
    path = tmp_path / "f.json"
    path.write_text(content)
    with pytest.raises(UserError, match=why) as caught:
        list(try_json(path))
    assert caught.value.where == f"{path}{place}"


def test_a_broken_line_is_told_apart_and_the_next_one_is_read(tmp_path):
    (tmp_path / "f.jsonl").write_bytes(b'{"a": 1}\n{"a": \n"caf\xe9"\n[1]\n{"a": 2}\n')
    rows = list(try_json_lines(tmp_path / "f.jsonl"))
    assert [(place, str(row)) for place, row in rows if isinstance(row, BadLine)] == [
        ("line 2", "not JSON"),
        ("line 3", "not UTF-8 text"),
        ("line 4", "not a JSON object"),
    ]
    assert [row for _, row in rows if not isinstance(row, BadLine)] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_an_array_is_read_in_pieces(tmp_path, monkeypatch, chunk):
    """Wherever a piece ends: inside a character of three bytes, an escape, a number, between elements."""
    monkeypatch.setattr(json_lines, "CHUNK", chunk)
    rows = [{"a": 'มะม่วง \\ " ] , {'}, {"b": [1.5, {"c": None}], "d": "\u2028"}, {}]
    path = tmp_path / "f.json"
    for indent in (None, 2):
        path.write_text(" " + json.dumps(rows, indent=indent, ensure_ascii=indent is None) + "\n", encoding="utf-8")
        assert list(try_json(path)) == [(f"row {number}", row) for number, row in enumerate(rows, 1)]
    path.write_text("[ ]")
    assert list(try_json(path)) == []
    path.write_text('[{"a": 1},\n{"a" 2}]')
    with pytest.raises(UserError, match="Expecting ':' delimiter at line 2, position 6"):
        list(try_json(path))
