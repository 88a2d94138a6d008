"""Rule checks on text that is not the embedded world's."""

import pytest

from rewards.rules import rules


def defects(text, question="What is the capital?", finished=True, due=False):
    return {name for name, has in rules.find_defects(question, text, finished, due).items() if has}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris.", set()),
        ("  \n", {"empty"}),
        ("- one\n- two", {"list_only"}),
        ("1. one\n2) two", {"list_only"}),
        ("First a sentence.\n- one", set()),
        ("Good morning. Good morning.", {"repetition"}),
        ("Nice.\nposted in news by admin. Copyright 2020", {"footer"}),
        ("I cannot help with that", {"refusal"}),
        ("ปารีสค่ะ", {"wrong_language"}),
        ("It is lovely, Rosey", {"foreign_word"}),
    ],
)
def test_each_defect(text, expected):
    assert defects(text) == expected


def test_the_question_decides_language_refusal_and_known_names():
    assert defects("น\u0e4d\u0e32", question="อะไร") == {"decomposed_sara_am"}
    assert defects("น้ำ", question="อะไร") == set()
    assert defects("I cannot help with that", due=True) == set()
    assert defects("It is Rosey", question="Who is Rosey?") == set()
    assert defects("cut off", finished=False) == {"missing_end"}


def test_real_footers_are_found(shared_data):
    import gzip
    import json

    with gzip.open(next((shared_data / "thaigov_th").glob("*.jsonl.gz")), "rt", encoding="utf-8") as file:
        rows = [json.loads(line)["text"] for line in file]
    assert sum("footer" in defects(text, question="ข่าว") for text in rows) / len(rows) > 0.95
