"""The language of a text, told by its script: the one that most of its letters are written in. Plain data.

Languages that share a script are one here: English and Spanish are both `Latin`. A text of any length has an answer, and none is guessed.
"""

import unicodedata
from collections import Counter
from functools import cache

NO_LETTERS = "no letters"
JAPANESE = "Japanese"
KANA = ("HIRAGANA", "KATAKANA")
NAMES = {"CJK": "Chinese"}
"""The first word of a letter's Unicode name -> what its script is called here, if it is not that word."""


def language_of(text: str) -> str:
    """The script of the text, such as Thai, Latin or Cyrillic. Han letters beside kana are Japanese, and Chinese otherwise."""
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else NO_LETTERS
    counts: Counter[str] = Counter()
    for letter, count in Counter(text).items():
        if script := _script(letter):
            counts[script] += count
    if counts[JAPANESE]:
        counts[JAPANESE] += counts.pop("Chinese", 0)
    return counts.most_common(1)[0][0] if counts.total() else NO_LETTERS


@cache
def _script(letter: str) -> str:
    """The script of a letter, or of a mark that belongs to letters, as Thai vowels do; empty for anything else."""
    if unicodedata.category(letter)[0] not in "LM":
        return ""
    word = unicodedata.name(letter, "").partition(" ")[0].partition("-")[0]
    if word in KANA:
        return JAPANESE
    return "" if word in ("COMBINING", "MODIFIER", "VARIATION", "FEMININE", "MASCULINE") else NAMES.get(word, word.capitalize())
