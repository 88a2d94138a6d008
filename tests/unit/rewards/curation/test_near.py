"""Near-duplicates, beside the exact Jaccard similarity; scripts of texts."""

import random
import string
import unicodedata

import pytest

from rewards.curation import near
from rewards.curation.languages import language_of
from rewards.curation.near import SHINGLE, NearDuplicates
from tests.unit.rewards.curation.pairs import number

ENGLISH = "The river rises in the mountains, crosses a wide plain, and reaches the sea after nearly four hundred kilometres."
THAI = "แม่น้ำสายนี้มีต้นน้ำอยู่บนภูเขา ไหลผ่านที่ราบกว้างใหญ่ แล้วไหลลงสู่ทะเลหลังจากเดินทางไกลเกือบสี่ร้อยกิโลเมตร"


def jaccard(a, b):
    one, other = ({text[i : i + SHINGLE] for i in range(len(text) - SHINGLE + 1)} for text in (a, b))
    return len(one & other) / len(one | other)


def edited(text, name, changes):
    """The text with some of its characters replaced by digits, at places that the name decides."""
    letters = list(text)
    for change in range(changes):
        letters[number(name, change, below=len(letters))] = str(change % 10)
    return "".join(letters)


def groups(*texts, threshold=0.8):
    found = NearDuplicates()
    for text in texts:
        found.add(text)
    return found.groups(threshold).tolist()


@pytest.mark.parametrize("text", [ENGLISH, THAI])
def test_small_changes_make_near_duplicates(text):
    other = "An answer about something else altogether: seven birds, a red door, and no water at all in any of it."
    assert groups(text, other, text + " ", text.rstrip(".") + "?", text.upper()) == [0, 1, 0, 0, 0]


def test_composed_and_decomposed_letters_are_equal():
    text = "Où est la bibliothèque française près du château"
    assert groups(text, unicodedata.normalize("NFD", text), threshold=1.0) == [0, 0]


def test_short_and_empty_texts():
    assert groups("", "a", "", "b", "a") == [0, 1, 0, 3, 1]


@pytest.mark.parametrize("text", [ENGLISH, THAI])
def test_agrees_with_the_exact_similarity(text):
    """Of 300 pairs with known similarity, nearly all clear cases are told: 0.9 and more are near, 0.65 and less are not.

    An estimate from 112 minima has a standard error of at most 0.046 there, and a pair with a similarity of 0.9 shares no band in 1 of
    2,600 cases: (1 - 0.9^8)^14.
    """
    found, clear = [], 0
    long = " ".join(edited(text, f"part {i}", 40) for i in range(6))
    for name in range(300):
        other = edited(long, name, name % 40)
        similarity = jaccard(long, other)
        if similarity >= 0.9 or similarity <= 0.65:
            clear += 1
            found.append((groups(long, other)[1] == 0) == (similarity >= 0.9))
    assert clear > 100 and sum(found) >= len(found) - 2


def test_the_first_text_of_a_group_stands_for_it():
    chain = [ENGLISH, THAI, ENGLISH + " Yes.", THAI + " ครับ", ENGLISH]
    assert groups(*chain) == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("firsts", [near.FIRSTS, 2])
def test_many_texts_that_look_alike(firsts, monkeypatch):
    """150 texts share 300 of 430 letters, so two of them have a similarity of about 296 / 556 = 0.53: often a band in common, never near.
    Each comes again with other last letters, and a similarity of 421 / 431 = 0.98 to itself.
    The two agree in 0.98^8 = 83 % of the bands, so they are found although a text is compared with only two others in each."""
    monkeypatch.setattr(near, "FIRSTS", firsts)
    rng = random.Random(0)
    shared = "".join(rng.choices(string.ascii_lowercase, k=300))
    texts = [shared + "".join(rng.choices(string.ascii_lowercase, k=130)) for _ in range(150)]
    again = [text[:-5] + "12345" for text in texts]
    assert sum(map(len, texts + again)) > near.BATCH
    assert groups(*texts, *again) == [*range(150), *range(150)]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Which sea?", "Latin"),
        (THAI, "Thai"),
        ("ทะเล sea", "Thai"),  # 4 letters and marks beside 3
        ("日本の海", "Japanese"),
        ("中国的海", "Chinese"),
        ("Какое море?", "Cyrillic"),
        ("12 + 30 = 42", "no letters"),
        ("", "no letters"),
        ("🙂 ½", "no letters"),
    ],
)
def test_language_by_script(text, language):
    assert language_of(text) == language
