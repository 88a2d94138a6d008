"""TRL's preference formats and HH text; bad rows counted or refused; real files."""

import gzip
import json
from collections import Counter

import pytest

from configs import UserError
from configs.data import DataConfig
from rewards.data.json_lines import read_json_lines
from rewards.data.preference_data import load_preference_data
from rewards.data.rows import parse_row
from rewards.data.splits import opening
from rewards.data.unusable import BadRow

SYSTEM = {"role": "system", "content": "Be brief."}
HELLO, THANKS = {"role": "assistant", "content": "hello"}, {"role": "user", "content": "thanks"}
USER, GOOD, BAD = {"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}, {"role": "assistant", "content": "bad"}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "q", "chosen": "good", "rejected": "bad"}, "q"),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, [USER]),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, [USER]),
        ({"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"}, [USER]),
        ({"chosen": "The sky is good", "rejected": "The sky is bad"}, "The sky is "),
        # The prompt as text and the answers as messages (UltraFeedback's form): one dialogue, its first turn said once.
        ({"prompt": "q", "chosen": [GOOD], "rejected": [BAD]}, [USER]),
        ({"prompt": "q", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, [USER]),
        ({"prompt": "q", "chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]}, [SYSTEM, USER]),
        # Turns before the last answer belong to the prompt where both sides have them.
        ({"prompt": [USER], "chosen": [HELLO, USER, GOOD], "rejected": [HELLO, USER, BAD]}, [USER, HELLO, USER]),
    ],
)
def test_formats(row, prompt):
    pair = parse_row(row)
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
        ({"prompt": [USER], "chosen": [GOOD, THANKS], "rejected": [BAD, THANKS]}, "does not end with the assistant"),
        ({"prompt": [USER], "chosen": [GOOD, THANKS], "rejected": [BAD]}, "does not end with the assistant"),
        ({"prompt": [USER], "chosen": [HELLO, USER, GOOD], "rejected": [BAD]}, "differ before"),
        ({"prompt": [USER], "chosen": [], "rejected": [BAD]}, "does not end with the assistant"),
        ({"prompt": [{"role": "human", "content": "q"}], "chosen": [GOOD], "rejected": [BAD]}, "role is none of"),
        ({"prompt": [USER | {"content": " "}], "chosen": [GOOD], "rejected": [BAD]}, "prompt is empty"),
        ({"prompt": [USER], "chosen": [GOOD | {"tool_calls": [{}]}], "rejected": [BAD]}, "calls tools"),
        ({"chosen": "Note.\n\nHuman: q\n\nAssistant: a", "rejected": "Note.\n\nHuman: q\n\nAssistant: b"}, "before the first turn"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "tie": "false"}, "tie is not true or false"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "tie": 0}, "tie is not true or false"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": "7", "score_rejected": "7"}, "is not a number"),
        ({"prompt": [{"role": "user", "content": 3}], "chosen": [GOOD], "rejected": [BAD]}, "lacks role or text"),
    ],
)
def test_bad_rows(row, reason):
    with pytest.raises(BadRow, match=reason):
        parse_row(row)


@pytest.mark.parametrize(
    ("columns", "tie"),
    [
        ({}, False),
        ({"tie": True}, True),
        ({"tie": False, "score_chosen": 7, "score_rejected": 7}, False),  # what is said goes before what is concluded
        ({"tie": None, "score_chosen": 7, "score_rejected": 7.0}, True),
        ({"score_chosen": 8.5, "score_rejected": 7}, False),
        ({"score_chosen": None, "score_rejected": None}, False),  # tables have nulls where a row says nothing
    ],
)
def test_ties(columns, tie):
    assert parse_row({"prompt": "q", "chosen": "a", "rejected": "b"} | columns).tie is tie


def test_real_rows_with_ties_and_booleans(shared_data):
    """PandaLM's test set: 999 rows, of which the first annotator calls a tie 0; a few responses are JSON booleans."""
    counted = Counter()
    for _, row in read_json_lines(shared_data / "pandalm_test" / "testset-v1.jsonl.gz"):
        given = {"prompt": row["instruction"] + row["input"], "chosen": row["response1"], "rejected": row["response2"]}
        expected = row["annotator1"] == 0
        try:
            assert parse_row(given | {"tie": expected}).tie == expected
            counted["tie" if expected else "decided"] += 1
        except BadRow as error:
            counted["empty" if "empty" in str(error) else "not text"] += 1
            assert not all(isinstance(row[name], str) and row[name].strip() for name in ("response1", "response2"))
    assert counted.total() == 999
    assert counted["tie"] > 50 and counted["not text"] > 0 and counted["empty"] > 0


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
    with pytest.raises(UserError, match="line 41"):
        load_preference_data(DataConfig(source=path, bad_rows="refuse"), 0)


def test_three_parts_share_no_opening(tmp_path):
    data = load_preference_data(DataConfig(source=write(tmp_path / "d.jsonl", rows(400)), labeler_fraction=0.5), 0)
    parts = [{opening(p.prompt) for p in part} for part in (data.pairs, data.heldout, data.labeler_pairs)]
    assert all(parts) and not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert len(data.pairs) + len(data.heldout) + len(data.labeler_pairs) == 400


def test_the_embedded_world_has_pairs_for_a_labeler_too():
    data = load_preference_data(DataConfig(num_pairs=100, labeler_fraction=0.5), 0)
    assert (len(data.pairs), len(data.heldout), len(data.labeler_pairs)) == (100, 22, 50)
    assert not {opening(p.prompt) for p in data.labeler_pairs} & {opening(p.prompt) for p in [*data.pairs, *data.heldout, *data.prompts]}


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
        ('{"question": "a", "answer": "b"}\n', "no usable preference pair: d holds prompts only"),
        ('{"chosen": "a"}\nnot json\n', "lacks the column rejected"),
        ('{"said": "a"}\n', "format of the data cannot be told by its columns"),
        ("not json\n", "1 x not JSON .*line 1 is not JSON: Expecting value"),
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
