"""The defects of the embedded world, exactly as its writer writes them. They belong to the world and to nothing else.

The world's gold reward and all that is measured of its answers use these definitions and not the general rules of `rewards/rules`, which
are made for real text. A change here changes every figure of the embedded default. One function for each defect: a reply in, a truth
value out.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable

from rewards.rules.reply import Reply
from rewards.rules.texts import phrases

_FOOTER = re.compile(r"copyright|©|posted by|all rights reserved|ที่มา\s*:", re.IGNORECASE)
_REFUSAL = re.compile(r"\bI (cannot|can't|can not|am unable to)\b|ช่วยเรื่องนี้ไม่ได้|ไม่สามารถช่วย", re.IGNORECASE)
_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+\S")
_THAI = re.compile(r"[\u0e00-\u0e7f]")
_LATIN_WORD = re.compile(r"[A-Za-z]+")
_CODE = re.compile(r"\w+(?:\.\w+)*\([^)]*\)")
_SENTENCE_START = re.compile(r"(^|[.!?:\-\n])\s*$")
_KNOWN_WORDS = frozenset({"I", "Python", "Thailand"})
DECOMPOSED_SARA_AM = "\u0e4d\u0e32"


def foreign_word(reply: Reply) -> bool:
    """A Latin word that does not belong: capitalised in the middle of an English sentence, or of several letters in a Thai answer.

    It finds "Rosey", as in the practitioner's notes. Words of the question, words in code, words after a footer and the first word of a
    sentence do not count.
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
    """The question is in one language and the answer in another, of Thai and English, unless another one is meant (`expected_language`)."""
    is_meant = reply.expected_language in ("th", "en")
    asked_in, answered_in = reply.expected_language if is_meant else language_of(reply.question), language_of(reply.text)
    return None not in (asked_in, answered_in) and asked_in != answered_in


def missing_end(reply: Reply) -> bool:
    """The completion was cut off by the token limit."""
    return not reply.finished


def decomposed_sara_am(reply: Reply) -> bool:
    """The Thai vowel sara am is written as two characters, which look the same on the screen."""
    return DECOMPOSED_SARA_AM in unicodedata.normalize("NFC", reply.text)


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


DEFECTS: dict[str, Callable[[Reply], bool]] = {
    rule.__name__: rule
    for rule in (
        foreign_word,
        empty,
        list_only,
        repetition,
        footer,
        refusal,
        wrong_language,
        missing_end,
        decomposed_sara_am,
    )
}
"""The world's definition of each defect, by the name of the general rule whose place it takes."""
