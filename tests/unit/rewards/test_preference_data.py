"""TRL's preference formats and HH text; bad rows counted or refused; real files."""

import gzip
import json

import pytest

from configs import UserError
from configs.schema import DataConfig
from rewards.preference_data import BadRow, load_preference_data, opening, parse_row

USER, GOOD, BAD = {"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}, {"role": "assistant", "content": "bad"}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "q", "chosen": "good", "rejected": "bad"}, "q"),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, [USER]),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, [USER]),
        ({"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"}, [USER]),
        ({"chosen": "The sky is good", "rejected": "The sky is bad"}, "The sky is "),
    ],
)
def test_formats(row, prompt):
    pair = parse_row(row, 0)
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, "good", "bad")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q", "chosen": "", "rejected": "bad"}, "chosen is empty"),
        ({"prompt": "q", "chosen": True, "rejected": "bad"}, "chosen is not text"),
        ({"prompt": "q", "chosen": "a", "rejected": None}, "rejected is not text"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "the same"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "prompt is empty"),
        ({"chosen": [USER, GOOD], "rejected": [GOOD, BAD]}, "differ before"),
        ({"prompt": [{"role": "user", "content": 3}], "chosen": [GOOD], "rejected": [BAD]}, "lacks role or text"),
    ],
)
def test_bad_rows(row, reason):
    with pytest.raises(BadRow, match=reason):
        parse_row(row, 0)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(n):
    return [{"prompt": f"question {i // 2}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(n)]


def test_bad_rows_are_counted_or_refused(tmp_path):
    path = write(
        tmp_path / "d.jsonl", [*rows(40), {"prompt": "q", "chosen": "", "rejected": "x"}, {"prompt": "q", "chosen": False, "rejected": "x"}]
    )
    data = load_preference_data(DataConfig(source=path), 0)
    assert dict(data.skipped) == {"chosen is empty": 1, "chosen is not text or messages": 1}
    with pytest.raises(UserError, match="row 41"):
        load_preference_data(DataConfig(source=path, bad_rows="refuse"), 0)


def test_three_parts_share_no_opening(tmp_path):
    data = load_preference_data(DataConfig(source=write(tmp_path / "d.jsonl", rows(400)), labeler_fraction=0.5), 0)
    parts = [{opening(p.prompt) for p in part} for part in (data.pairs, data.heldout, data.labeler_pairs)]
    assert all(parts) and not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert len(data.pairs) + len(data.heldout) + len(data.labeler_pairs) == 400


def test_other_file_kinds(tmp_path):
    import datasets

    table = datasets.Dataset.from_list(rows(40))
    table.to_parquet(tmp_path / "d.parquet")
    table.to_csv(tmp_path / "d.csv")
    expected = {
        p.chosen for part in [load_preference_data(DataConfig(source=write(tmp_path / "d.jsonl", rows(40))), 0)] for p in part.pairs
    }
    for name in ("d.parquet", "d.csv"):
        data = load_preference_data(DataConfig(source=str(tmp_path / name)), 0)
        assert {p.chosen for p in data.pairs} == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ('{"question": "a", "answer": "b"}\n', "lacks the columns chosen, rejected"),
        ('{"chosen": "a"}\nnot json\n', "line 2 is not JSON"),
        ('{"prompt": "q", "chosen": "", "rejected": "x"}\n', "no usable"),
    ],
)
def test_unusable_files_get_one_message(tmp_path, content, message):
    path = tmp_path / "d.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_preference_data(DataConfig(source=str(path)), 0)


def test_missing_files():
    with pytest.raises(UserError, match="does not exist"):
        load_preference_data(DataConfig(source="nowhere.jsonl"), 0)


def test_hh_harmless(shared_data):
    path = shared_data / "hh_harmless" / "pairs.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        total = sum(1 for _ in file)
    data = load_preference_data(DataConfig(source=str(path)), 0)
    assert len(data.pairs) + len(data.heldout) + sum(data.skipped.values()) == total == 1629
    assert data.skipped["chosen is empty"] + data.skipped["rejected is empty"] > 0
    assert not {opening(p.prompt) for p in data.pairs} & {opening(p.prompt) for p in data.heldout}
