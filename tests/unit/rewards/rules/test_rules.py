"""Each rule on short texts, what a verdict says, and rules of the user's. `test_planted.py` has real text."""

import random
import re
import time
from pathlib import Path

import pytest

from configs import UserError
from configs.fields import DEFAULT_RULES
from configs.schema import EvaluateConfig
from rewards.comparisons import Sample
from rewards.evaluation import defect_rates
from rewards.rules import RULES, find_defects, find_rules, judge
from rewards.rules.duplicates import Texts, jaccard, shingles
from rewards.rules.repetition import shares
from rewards.rules.reply import Reply
from rewards.rules.texts import CODE_CALL, prose, units

PROJECT = Path(__file__).parents[4]


def defects(text, question="What is the capital?", **known):
    return {name for name, has in find_defects(Reply(question, text, **known)).items() if has}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris.", set()),
        ("  \n\u200b", {"empty"}),
        ("- one\n- two", {"list_only"}),
        ("1. one\n2) two", {"list_only"}),
        ("First a sentence.\n- one", set()),
        ("Good morning. Good morning.", {"repetition"}),
        ("yes yes yes yes", {"repetition"}),
        ("No, no. That is not so.", set()),
        ("Nice.\nposted in news by admin. Copyright 2020", {"footer"}),
        ("The copyright of a book ends 70 years after its author's death.", set()),
        ("I cannot help with that", {"refusal"}),
        ("I can't swim, but my sister can.", set()),
        ("ปารีสค่ะ", {"wrong_language"}),
        ("巴黎", {"wrong_language"}),
        ("It is lovely, Rosey", {"foreign_word"}),
        ("It is lovely, he said to Rosey and to Tom.", set()),
        ("It is 漂亮 there.", {"foreign_word"}),
        ("Its Chinese name (巴黎) is a loan.", set()),
        ("The capital is a large town in the north", {"cut_off"}),
        ("The capital is a large town in the north.", set()),
    ],
)
def test_each_defect(text, expected):
    assert defects(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ปารีสครับ", set()),
        ("ปารีสเป็นเมืองหลวงของฝรั่งเศส", set()),  # no full stop, and none is missed
        ("ใช่ใช่ใช่ใช่", {"repetition"}),
        ("Coldplay", set()),  # a name is right in any language
        ("It is the largest town.", {"wrong_language"}),
        ("巴黎是法国的首都", {"wrong_language"}),
        ("ปารีส Rosey Rosey", {"foreign_word"}),
        ("ดาวน์โหลดได้จาก App Store ค่ะ", set()),
        ("ขอโทษครับ ผมไม่สามารถตอบคำถามนี้ได้", {"refusal"}),
        ("ปารีส\nที่มา : https://example.org/1", {"footer"}),
        ("๑. ปารีส\n๒. ลียง", {"list_only"}),
        ("น\u0e4d\u0e32", {"decomposed_sara_am"}),
        ("น\u0e4d\u0e49\u0e32", {"decomposed_sara_am"}),
        ("น้ำ", set()),
    ],
)
def test_each_defect_in_thai(text, expected):
    assert defects(text, question="เมืองหลวงชื่ออะไร") == expected


def test_the_prompt_decides_refusals_known_names_and_ends():
    assert defects("I cannot help with that", refusal_is_due=True) == set()
    assert defects("It is lovely, Rosey", question="Who is Rosey?") == set()
    assert defects("cut off", finished=False) == {"missing_end"}


@pytest.mark.parametrize(("expected", "wrong"), [("same", {"en"}), ("any", set()), ("th", {"en"}), ("en", {"th"})])
def test_the_expected_language_of_answers_to_a_thai_question(expected, wrong):
    answers = {"th": "กรุงเทพฯ เป็นเมืองหลวง", "en": "the largest town of the north"}
    rule = find_rules(["wrong_language"], expected)
    assert {name for name, text in answers.items() if find_defects(Reply("เมืองหลวงชื่ออะไร", text), rule)["wrong_language"]} == wrong


def test_an_answer_that_repeats_the_prompt():
    question = "Tell me which of the two large rivers in the north is longer"  # 13 words, so 9 runs of 5
    assert "repeats_prompt" in defects(f"{question.upper()}! The first.", question)
    verdict = judge(Reply(question, "The two large rivers in the north are long."))["repeats_prompt"]
    assert verdict.value == pytest.approx(3 / 9) and not verdict  # "the two large rivers in" and the two runs after it
    assert "repeats_prompt" not in defects("What is the capital? Paris.")  # a short question may stand in its answer


def test_a_greeting_answered_by_a_list():
    answer = "Hello! You can ask me about:\n- hotels\n- food"
    assert "greeting_list" in defects(answer, "Good morning!") and "greeting_list" in defects(answer, "สวัสดีค่ะ")
    assert "greeting_list" not in defects(answer, "Hello, which hotels and restaurants are there in the old town of Chiang Mai?")
    assert "greeting_list" not in defects("Hello! - How are you?", "Hi")
    assert "greeting_list" not in defects(answer, "Hiking trails?")


def test_a_near_duplicate_of_an_answer_to_another_prompt():
    """10 words have 6 runs of 5. One word more at the end adds one: an index of 6 / 7. Another last word changes one of 6: 5 / 7."""
    text = "one two three four five six seven eight nine ten"
    others = Texts([("p", text)])
    assert jaccard(shingles(text), shingles(f"{text} more")) == pytest.approx(6 / 7)
    assert defects(f"{text} more.", "q", others=others) == {"near_duplicate"}
    assert defects(f"{text[:-3]}six.", "q", others=others) == set()
    assert defects(f"{text}.", "p", others=others) == set()  # of the same prompt
    assert defects("one two three.", "q", others=Texts([("p", "one two three")])) == set()  # too short to be compared


def test_a_verdict_says_what_was_measured():
    """Of 3 lines 2 occurred before: 2 / 3 of the lines, and of the letters, which is further above its threshold of 0.2."""
    found = judge(Reply("", "ab\nab\nab"))["repetition"]
    assert {share.measure: share.value for share in shares("ab\nab\nab")}["repeated lines"] == pytest.approx(2 / 3)
    assert (found.rule, found.fires, found.threshold, found.measure) == ("repetition", True, 0.2, "letters in repeated lines")
    assert found.value == pytest.approx(2 / 3)


def test_thai_is_cut_into_clusters():
    """เ-ลือ-ก: a vowel before its consonant and the marks above and after belong to one cluster. Numbers and Latin words are whole."""
    assert units("เลือกน้ำ 25 Cups") == ["เลื", "อ", "ก", "น้ำ", "25", "cups"]


def test_all_rules_of_the_embedded_world_are_measured_by_default_in_a_fixed_order():
    assert EvaluateConfig().rules == DEFAULT_RULES == list(RULES)[:9]


def test_every_rule_is_explained():
    page = (PROJECT / "docs" / "rules.md").read_text(encoding="utf-8")
    for name, rule in RULES.items():
        assert "ource" in rule.__doc__ and "Measured: " in rule.__doc__, name
        assert f"`{name}`" in page, name


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


def test_completions_are_compared_only_if_a_rule_asks_for_it():
    """Three prompts, of which two have nearly the same answer."""
    text = "one two three four five six seven eight nine ten"
    samples = [Sample(str(i), str(i), f"q{i}", answer, True, 0, 0) for i, answer in enumerate((text, f"{text} more", "something else"))]
    assert defect_rates(samples, find_rules(["near_duplicate"])) == {"near_duplicate": 2 / 3}


@pytest.mark.parametrize(
    "text",
    [
        "Rosey" + " " * 8000 + "x",
        "a" + "\n" * 8000 + "b",
        "a" * 8000,
        "กา" * 4000,
        "a(" * 4000,
        "1." * 4000,
        "a.b-" * 2000,
        '"' * 8000,
        "\ud800",
    ],
)
def test_no_rule_is_slow_on_what_broken_policies_write(text):
    """8,000 characters. A pattern that looks at each place from each place takes seconds; these take some hundredths of one."""
    start = time.process_time()
    judge(Reply("What is the capital of the largest country in the north?", text))
    assert time.process_time() - start < 0.7


def test_calls_and_addresses_are_found_as_by_the_plain_expressions():
    """Which are slow on `1.1.1.1`."""
    plain_call = re.compile(r"\b\w+(?:\.\w+)*\([^)]*\)")
    plain_address = re.compile(r"https?://\S+|\b[\w.+-]+@[\w-]+\.\w+")
    rng, pieces = random.Random(0), ["a", "b1", ".", "+", "-", "@", "@", "_", "(", ")", "ก", " ", "http://"]
    for _ in range(20_000):
        text = "".join(rng.choices(pieces, k=rng.randrange(1, 16)))
        assert CODE_CALL.sub("#", text) == plain_call.sub("#", text)
        assert prose(text) == plain_call.sub(" ", plain_address.sub(" ", text))
