"""The made translator of the embedded world."""

import pytest

from rewards.world.dictionary import Dictionary
from rewards.world.writer import all_prompts

OTHER = {"en": "th", "th": "en"}


def test_each_prompt_of_the_world_becomes_the_same_prompt_in_the_other_language_and_back():
    dictionary, prompts = Dictionary(), all_prompts().values()
    by_texts = {tuple(content for _, content in prompt.messages): prompt for prompt in prompts}
    for prompt in prompts:
        texts = [content for _, content in prompt.messages]
        there = dictionary.translate(texts, prompt.language, OTHER[prompt.language])
        found = by_texts[tuple(there)]
        assert (found.fact, found.told_fact, found.language) == (prompt.fact, prompt.told_fact, OTHER[prompt.language])
        assert dictionary.translate(there, found.language, prompt.language) == texts


@pytest.mark.parametrize(
    ("english", "thai"),
    [
        ("In Nan, stay near the beach. The staff are kind.", "ที่น่าน พักแถวชายหาดค่ะ พนักงานใจดีค่ะ"),
        ("- To sort, use xs.sort().\n- It is fast.", "- เรียงใช้ xs.sort() ค่ะ\n- ทำงานเร็วค่ะ"),
        ("Sorry, I cannot help with that.", "ขอโทษค่ะ ช่วยเรื่องนี้ไม่ได้ค่ะ"),
        ("", ""),
    ],
)
def test_answers_are_translated_sentence_by_sentence(english, thai):
    assert Dictionary().translate([english], "en", "th") == [thai]
    assert Dictionary().translate([thai], "th", "en") == [english]


def test_what_no_phrase_covers_is_copied():
    """`catfish` begins with a word that is known, and is another word."""
    assert Dictionary().translate(["Rosey said: a catfish, a cat"], "en", "th") == ["Rosey said: a catfish, a แมว"]


def test_errors_put_another_phrase_of_the_same_kind_and_depend_on_the_text_only():
    """A question with a subject has two places for an error, so 1 - 0.9 * 0.9 = 19 % go wrong at a rate of 0.1, and all do at 1."""
    asked = [
        content
        for prompt in all_prompts().values()
        if prompt.language == "th" and len(prompt.messages) == 1
        for _, content in prompt.messages
    ]
    asked = [text for text in asked if not text.startswith(("สวัสดี", "ช่วยหน่อย"))]
    right = Dictionary().translate(asked, "th", "en")
    some, again = (Dictionary(0.1).translate(asked, "th", "en") for _ in range(2))
    all_wrong = Dictionary(1.0).translate(asked, "th", "en")
    assert some == again and Dictionary(0.1).translate(asked[::-1], "th", "en") == some[::-1]
    with_openers = 1 - 0.9**3  # of ten openers, seven are left, six of them with a text
    share = sum(a != b for a, b in zip(right, some, strict=True)) / len(right)
    assert 0.19 - 0.04 < share < with_openers + 0.04
    assert not set(zip(right, all_wrong, strict=True)) & set(zip(right, right, strict=True))
    assert Dictionary(0.1).name == "dictionary, error rate 0.1"


def test_a_wrong_value_is_another_value():
    """Several subjects of the world have the same value, which would be no error."""
    for seed in range(20):
        (said,) = Dictionary(1.0).translate([f"{'.' * seed}A mango is yellow."], "en", "th")
        assert "สีเหลือง" not in said and "มะม่วง" not in said
