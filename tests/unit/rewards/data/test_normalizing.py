"""Text in one form: what is changed, what must stay, and that it is done once."""

import random
import unicodedata
from collections import Counter

import pytest

from rewards.data.normalizing import CHANGES, normalize, normalize_prompt

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
"""An emoji of three, joined by U+200D."""


@pytest.mark.parametrize(
    ("text", "expected", "changed"),
    [
        ("น\u0e4d\u0e32", "น\u0e33", "sara am"),
        ("น\u0e4d\u0e49\u0e32", "น\u0e49\u0e33", "sara am"),
        ("น\u0e49\u0e4d\u0e32", "น\u0e49\u0e33", "sara am"),
        ("น\u0e33\u0e49", "น\u0e49\u0e33", "sara am"),
        ("กา\u200bแฟ\ufeff", "กาแฟ", "zero-width characters"),
        ("กา\u200dแฟ", "กาแฟ", "zero-width characters"),
        ("cafe\u0301", "caf\u00e9", "NFC"),
        ("ก\u00a0ข\u2009ค", "ก ข ค", "odd spaces"),
        ("ก\r\nข\rค", "ก\nข\nค", "line ends"),
        ("a\r\n", "a\n", "line ends"),
    ],
)
def test_each_change_is_counted(text, expected, changed):
    counts = Counter()
    assert normalize(text, counts) == expected and counts == {changed: 1}


@pytest.mark.parametrize("text", ["", "plain  text\n", "น้ำท่วม", f"ครอบครัว {FAMILY} ดี", "全角\u3000空白", "می\u200cخواهم", "ก  ข"])
def test_what_stays(text):
    counts = Counter()
    assert normalize(text, counts) == text and not counts


def test_a_prompt_in_messages_keeps_its_other_keys():
    counts = Counter()
    prompt = [{"role": "user", "content": "ค\u0e4d\u0e32"}, {"role": "tool", "content": "b", "name": "x"}]
    assert normalize_prompt(prompt, counts) == [{"role": "user", "content": "ค\u0e33"}, {"role": "tool", "content": "b", "name": "x"}]
    assert counts == {"sara am": 1}


def test_what_is_normalised_is_normalised():
    """2,000 texts of characters that can meet: a second time changes nothing, NFC holds, and letters stay what they are."""
    letters = "กนำ\u0e4d\u0e32\u0e33\u0e48\u0e49\u0e38\u200b\u200d\u00a0\ufeff e\u0301\r\nเ"
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choice(letters) for _ in range(rng.randrange(12)))
        once = normalize(text, Counter())
        counts = Counter()
        assert normalize(once, counts) == once and not counts, ascii(text)
        assert unicodedata.is_normalized("NFC", once)
        assert sum(text.count(letter) for letter in "กนเe") == sum(unicodedata.normalize("NFD", once).count(letter) for letter in "กนเe")


def test_real_thai(shared_data):
    """Thai press texts: 21 of 900 write sara am decomposed (counted by hand with grep), and all begin with a byte order mark."""
    from rewards.data.json_lines import read_json_lines

    counts = Counter()
    for _, row in read_json_lines(shared_data / "thaigov_th" / "thaigov_900.jsonl.gz"):
        text = normalize(row["text"], counts)
        assert "\u0e4d\u0e32" not in text and "\u200b" not in text
    assert counts["zero-width characters"] == 900 and counts["sara am"] == 21 and set(counts) <= set(CHANGES)
