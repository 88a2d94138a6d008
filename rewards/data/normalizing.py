"""Text in one form, so that what looks the same is the same: for the tokenizer, for duplicates, and for what is compared with answers.

What is changed, in this order, is CHANGES:

    zero-width characters   removed: U+200B, U+2060 and U+FEFF, which only say where a line may break (Unicode Standard, 23.2), and beside a
                            Thai character the joiners U+200C and U+200D, which mean nothing there. Elsewhere these make emoji and
                            letters of other scripts, and stay
    NFC                     canonical composition (Unicode Standard Annex 15)
    sara am                 U+0E4D and U+0E32, with a tone mark before, between or after, become the tone mark and U+0E33. NFC leaves them
                            apart, because the decomposition of U+0E33 is a compatibility one; the tone mark goes before it (Unicode
                            Standard, 16.1)
    odd spaces              U+00A0, U+2000 to U+200A, U+202F and U+205F become U+0020. The ideographic space U+3000 stays
    line ends               a carriage return and a line feed, or a carriage return alone, become a line feed

Imports no ML library. Must never change what a text says: letters, words, punctuation and the number of spaces stay.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable

from rewards.comparisons import Prompt

_JOINERS = re.compile("[\u200b\u2060\ufeff]|(?<=[\u0e00-\u0e7f])[\u200c\u200d]+|[\u200c\u200d]+(?=[\u0e00-\u0e7f])")
_SARA_AM = re.compile("\u0e4d([\u0e48-\u0e4b]*)\u0e32([\u0e48-\u0e4b]*)|\u0e33([\u0e48-\u0e4b]+)")
_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f]")
_LINE_ENDS = re.compile("\r\n?")
_MAY_CHANGE = re.compile("[\u200b-\u200d\u2060\ufeff\u0e4d\u00a0\u2000-\u200a\u202f\u205f\r]"), re.compile("\u0e33[\u0e48-\u0e4b]")
"""What a text has that is changed, apart from NFC. Most texts have none of it, and two looks are faster than five. One pattern for
both would be slower, because `re` is fast where it looks for a single set of characters, or for a character that all matches begin with."""

CHANGES: dict[str, Callable[[str], str]] = {
    "zero-width characters": lambda text: _JOINERS.sub("", text),
    "NFC": lambda text: unicodedata.normalize("NFC", text),
    "sara am": lambda text: _SARA_AM.sub(lambda found: "".join(filter(None, found.groups())) + "\u0e33", text),
    "odd spaces": lambda text: _SPACES.sub(" ", text),
    "line ends": lambda text: _LINE_ENDS.sub("\n", text),
}


def normalize(text: str, changed: Counter[str]) -> str:
    """The text in its one form. Each kind of change is counted once for the text."""
    if text.isascii() and "\r" not in text:
        return text
    if not any(pattern.search(text) for pattern in _MAY_CHANGE) and unicodedata.is_normalized("NFC", text):
        return text
    kinds, before = set(), None
    while text != before:  # one change may make room for another, as where NFC puts marks in another order
        before = text
        for name, change in CHANGES.items():
            new = change(text)
            if new != text:
                kinds.add(name)
                text = new
    changed.update(name for name in CHANGES if name in kinds)  # a set has another order in each process
    return text


def normalize_prompt(prompt: Prompt, changed: Counter[str]) -> Prompt:
    """The same for each message of a prompt."""
    if isinstance(prompt, str):
        return normalize(prompt, changed)
    return [message | {"content": normalize(message["content"], changed)} for message in prompt]
