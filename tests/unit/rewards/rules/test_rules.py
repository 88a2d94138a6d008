"""Rule checks on text that is not the embedded world's."""

import pytest

from configs import UserError
from configs.schema import EvaluateConfig
from rewards.comparisons import Sample
from rewards.evaluation import defect_rates
from rewards.rules import RULES, find_defects, find_rules
from rewards.rules.reply import Reply


def defects(text, question="What is the capital?", finished=True, due=False):
    return {name for name, has in find_defects(Reply(question, text, finished, refusal_is_due=due)).items() if has}


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


def test_all_built_in_rules_are_measured_by_default_in_a_fixed_order():
    assert EvaluateConfig().rules == list(RULES)


def test_a_rule_of_the_users_is_measured_like_a_built_in_one(tmp_path, monkeypatch):
    """Of three completions one is longer than three letters, and one is empty. The rule is told the prompt's messages and source."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "def too_long(reply):\n"
        "    assert reply.prompt == [{'role': 'user', 'content': 'q'}] and reply.question == 'q'\n"
        "    return len(reply.text) > 3 and reply.source == 'mail' and reply.finished\n"
    )
    messages = [{"role": "user", "content": "q"}]
    samples = [Sample(text, "p", messages, text, True, 0, 0, source="mail") for text in ("abcd", "abc", "")]
    assert defect_rates(samples, find_rules(["mine.py:too_long", "empty"])) == {"mine.py:too_long": 1 / 3, "empty": 1 / 3}
    with pytest.raises(UserError, match="mine.py has no function 'too_lang', did you mean 'too_long'"):
        find_rules(["mine.py:too_lang"])
