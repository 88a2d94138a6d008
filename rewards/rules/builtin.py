"""The built-in rules, one function for each defect. Text in, a boolean out; no model.

The defects are the ones that the practitioner's notes complain of. The rules need no knowledge of the embedded world, so they work on any
completion. The world's gold reward and the evaluation use the same rules.
"""

import re
import unicodedata
from collections import Counter

from rewards.rules.reply import Reply

_FOOTER = re.compile(r"copyright|©|posted by|all rights reserved|ที่มา\s*:", re.IGNORECASE)
_REFUSAL = re.compile(r"\bI (cannot|can't|can not|am unable to)\b|ช่วยเรื่องนี้ไม่ได้|ไม่สามารถช่วย", re.IGNORECASE)
_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+\S")
_THAI = re.compile(r"[\u0e00-\u0e7f]")
_LATIN_WORD = re.compile(r"[A-Za-z]+")
_CODE = re.compile(r"\w+(?:\.\w+)*\([^)]*\)")
_SENTENCE_START = re.compile(r"(^|[.!?:\-\n])\s*$")
_KNOWN_WORDS = frozenset({"I", "Python", "Thailand"})
DECOMPOSED_SARA_AM = "\u0e4d\u0e32"
MIN_PHRASE_CHARACTERS = 5


def foreign_word(reply: Reply) -> bool:
    """A Latin word that does not belong: capitalised in the middle of an English sentence, or of several letters in a Thai answer.

    It finds the notes' "Rosey". Words of the question, words in code, words after a footer and the first word of a sentence do not count.
    """
    prose = _CODE.sub(" ", _FOOTER.split(reply.text.strip())[0])
    known = _KNOWN_WORDS | set(_LATIN_WORD.findall(reply.question))
    words = [match for match in _LATIN_WORD.finditer(prose) if match.group() not in known]
    if _THAI.search(prose):
        return any(len(match.group()) > 1 for match in words)
    return any(match.group()[0].isupper() and not _SENTENCE_START.search(prose[: match.start()]) for match in words)


def empty(reply: Reply) -> bool:
    """Nothing but white space."""
    return not reply.text.strip()


def list_only(reply: Reply) -> bool:
    """Every line is a list item."""
    lines = [line for line in reply.text.strip().splitlines() if line.strip()]
    return bool(lines) and all(_LIST_ITEM.match(line) for line in lines)


def repetition(reply: Reply) -> bool:
    """A phrase occurs twice."""
    return count_repeated_phrases(reply.text.strip()) > 0


def footer(reply: Reply) -> bool:
    """The small print of a web page, such as a copyright notice."""
    return bool(_FOOTER.search(reply.text))


def refusal(reply: Reply) -> bool:
    """The answer declines although it should not."""
    return bool(_REFUSAL.search(reply.text)) and not reply.refusal_is_due


def wrong_language(reply: Reply) -> bool:
    """The question is in one language and the answer in another, of Thai and English."""
    asked_in, answered_in = language_of(reply.question), language_of(reply.text)
    return None not in (asked_in, answered_in) and asked_in != answered_in


def missing_end(reply: Reply) -> bool:
    """The completion was cut off by the token limit."""
    return not reply.finished


def decomposed_sara_am(reply: Reply) -> bool:
    """The Thai vowel sara am is written as two characters, which look the same on the screen."""
    return DECOMPOSED_SARA_AM in unicodedata.normalize("NFC", reply.text)


def phrases(text: str) -> list[str]:
    """The sentence-like pieces of a text. It is cut at line ends and sentence marks and, in Thai, which writes no full stop, at spaces."""
    boundary = r"[.!?\n]\s*|\s+(?=[\u0e00-\u0e7f])" if _THAI.search(text) else r"[.!?](?:\s+|$)|\n"
    return [piece.strip() for piece in re.split(boundary, text) if len(piece.strip()) >= MIN_PHRASE_CHARACTERS]


def count_repeated_phrases(text: str) -> int:
    """How many phrases of the text occurred in it before."""
    return sum(count - 1 for count in Counter(phrases(text)).values())


def language_of(text: str) -> str | None:
    """`th` or `en`, by the letters outside code; None if there are none."""
    prose = _CODE.sub(" ", text)
    thai, latin = len(_THAI.findall(prose)), sum(len(word) for word in _LATIN_WORD.findall(prose))
    if thai == latin == 0:
        return None
    return "th" if thai >= latin else "en"
