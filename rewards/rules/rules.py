"""Rule checks for the failures that the practitioner's notes complain of. Text in, booleans out; no model.

Each check names one defect. They need no knowledge of the embedded world, so they run on any completion; the world's
gold reward and the evaluation use the same checks.
"""

import re
import unicodedata
from collections import Counter

_FOOTER = re.compile(r"copyright|©|posted by|all rights reserved|ที่มา\s*:", re.IGNORECASE)
_REFUSAL = re.compile(r"\bI (cannot|can't|can not|am unable to)\b|ช่วยเรื่องนี้ไม่ได้|ไม่สามารถช่วย", re.IGNORECASE)
_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+\S")
_THAI = re.compile(r"[\u0e00-\u0e7f]")
_LATIN_WORD = re.compile(r"[A-Za-z]+")
_CODE = re.compile(r"\w+(?:\.\w+)*\([^)]*\)")
DECOMPOSED_SARA_AM = "\u0e4d\u0e32"
MIN_PHRASE_CHARACTERS = 5

DEFECTS = (
    "foreign_word",
    "empty",
    "list_only",
    "repetition",
    "footer",
    "refusal",
    "wrong_language",
    "missing_end",
    "decomposed_sara_am",
)


def phrases(text: str) -> list[str]:
    """Sentence-like pieces: split at line ends, sentence marks and, in Thai (which writes no full stop), at spaces."""
    boundary = r"[.!?\n]\s*|\s+(?=[\u0e00-\u0e7f])" if _THAI.search(text) else r"[.!?](?:\s+|$)|\n"
    return [piece.strip() for piece in re.split(boundary, text) if len(piece.strip()) >= MIN_PHRASE_CHARACTERS]


def count_repeated_phrases(text: str) -> int:
    """How many phrases of the text were already said in it."""
    return sum(count - 1 for count in Counter(phrases(text)).values())


def language_of(text: str) -> str | None:
    """`th` or `en` by the letters outside code; None where there are none."""
    prose = _CODE.sub(" ", text)
    thai, latin = len(_THAI.findall(prose)), sum(len(word) for word in _LATIN_WORD.findall(prose))
    if thai == latin == 0:
        return None
    return "th" if thai >= latin else "en"


def find_defects(question: str, completion: str, finished: bool, refusal_is_due: bool = False) -> dict[str, bool]:
    """Which defects a completion has, by name (`DEFECTS`).

    question: the last user turn. finished: whether the policy ended the completion itself. refusal_is_due: True where
    declining is the right answer.
    """
    text = completion.strip()
    asked_in, answered_in = language_of(question), language_of(text)
    lines = [line for line in text.splitlines() if line.strip()]
    return {
        "foreign_word": _has_foreign_word(question, text),
        "empty": not text,
        "list_only": bool(lines) and all(_LIST_ITEM.match(line) for line in lines),
        "repetition": count_repeated_phrases(text) > 0,
        "footer": bool(_FOOTER.search(text)),
        "refusal": bool(_REFUSAL.search(text)) and not refusal_is_due,
        "wrong_language": bool(text) and None not in (asked_in, answered_in) and asked_in != answered_in,
        "missing_end": not finished,
        "decomposed_sara_am": DECOMPOSED_SARA_AM in unicodedata.normalize("NFC", completion),
    }


def _has_foreign_word(question: str, text: str) -> bool:
    """A capitalised Latin word in the middle of an answer that the question did not contain, or any in a Thai answer.

    Catches the notes' "Rosey". Sentence starts are no evidence, nor are code and the footer's own words.
    """
    text = _FOOTER.split(text)[0]
    prose = _CODE.sub(" ", text)
    known = set(_LATIN_WORD.findall(question)) | {"I", "Python", "Thailand"}
    words = [match for match in _LATIN_WORD.finditer(prose) if match.group() not in known]
    if _THAI.search(prose):
        return any(len(match.group()) > 1 for match in words)
    return any(match.group()[0].isupper() and not re.search(r"(^|[.!?:\-\n])\s*$", prose[: match.start()]) for match in words)
