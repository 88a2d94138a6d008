"""How the rules read a text: its units, its phrases, its scripts. Characters only; no model, no dictionary.

Thai is written without spaces between words. Its unit is the cluster: a consonant with the vowels and marks that are written before, above,
below and after it (a "Thai character cluster", Theeramunkong et al. 2000). `docs/rules.md` compares clusters with words of PyThaiNLP.
"""

import re
from collections import Counter

THAI = re.compile(r"[\u0e00-\u0e7f]")
LATIN_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
CODE_CALL = re.compile(r"\b(?<!\w\.)\w+(?:\.\w+)*+\([^)]*\)")
"""A call, `name(...)` or `module.name(...)`. A search begins at the first name of a chain only: one that begins at each of them takes time
that grows with the square of a text such as `1.1.1.1`."""
MIN_PHRASE_CHARACTERS = 5
CLUSTERS_PER_WORD = 3
"""A Thai n-gram of n words is taken as one of n x this many clusters: on Thai press text, words have 5.4 characters and clusters 1.8."""

_UNIT = re.compile(
    r"[เ-ไ]?[ก-ฮ][ะ-ฺๅ็-๎]*"  # a Thai cluster
    r"|[\u3040-\u30ff\u3400-\u9fff]"  # one character of Chinese or Japanese, which have no spaces either
    r"|[^\W_\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]+"  # a word or a number of any other script
)
_NOT_PROSE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`|https?://\S+|www\.\S+|\b(?<!\w[.+-])[\w.+-]++@[\w-]+\.\w+", re.DOTALL)
SCRIPTS: dict[str, str] = {
    "thai": r"\u0e00-\u0e7f",
    "latin": r"A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff",
    "han": r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
    "kana": r"\u3041-\u3096\u30a1-\u30fa\u31f0-\u31ff",
    "hangul": r"\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
    "cyrillic": r"\u0400-\u052f",
    "greek": r"\u0370-\u03ff\u1f00-\u1fff",
    "arabic": r"\u0620-\u064a\u066e-\u06d3\u0750-\u077f",
    "hebrew": r"\u05d0-\u05ea",
    "devanagari": r"\u0900-\u097f",
    "bengali": r"\u0980-\u09ff",
    "tamil": r"\u0b80-\u0bff",
    "lao": r"\u0e80-\u0eff",
    "khmer": r"\u1780-\u17ff",
    "myanmar": r"\u1000-\u109f",
    "georgian": r"\u10a0-\u10ff",
    "armenian": r"\u0530-\u058f",
    "ethiopic": r"\u1200-\u137f",
}
"""The letters of each script that is told apart, as a range of a regular expression."""
_WORD = re.compile("|".join(f"(?P<{name}>[{letters}]+)" for name, letters in SCRIPTS.items()))


def units(text: str) -> list[str]:
    """The units of a text in small letters: words, and in Thai, Chinese and Japanese, which have no spaces, the pieces of them."""
    return _UNIT.findall(text.casefold())


def phrases(text: str) -> list[str]:
    """The sentence-like pieces of a text. It is cut at line ends and sentence marks and, in Thai, which writes no full stop, at spaces.

    The selector's features and the embedded world use it too, so a change here changes what they compute.
    """
    boundary = r"[.!?\n]\s*|\s+(?=[\u0e00-\u0e7f])" if THAI.search(text) else r"[.!?](?:\s+|$)|\n"
    return [piece.strip() for piece in re.split(boundary, text) if len(piece.strip()) >= MIN_PHRASE_CHARACTERS]


def prose(text: str) -> str:
    """The text without code, addresses of web pages and mail: what is left is written in a language."""
    return CODE_CALL.sub(" ", _NOT_PROSE.sub(" ", text))


def is_thai(text: str) -> bool:
    """Whether at least a half of the Thai and Latin letters are Thai."""
    return main_script(text) == "thai"


def units_per_word(text: str) -> int:
    """How many units a word has: one, and in Thai `CLUSTERS_PER_WORD`."""
    return CLUSTERS_PER_WORD if is_thai(text) else 1


def words_by_script(text: str) -> dict[str, list[str]]:
    """The runs of letters of each script in a text. Scripts that do not occur are left out."""
    found: dict[str, list[str]] = {}
    for match in _WORD.finditer(text):
        found.setdefault(str(match.lastgroup), []).append(match.group())
    return found


def letters_by_script(text: str) -> Counter[str]:
    """How many letters of each script a text has. Where there is Japanese `kana`, Chinese letters count as it too."""
    return letters_in(words_by_script(text))


def letters_in(found: dict[str, list[str]]) -> Counter[str]:
    """The numbers of letters of what `words_by_script` gives."""
    counts = Counter({name: sum(map(len, words)) for name, words in found.items()})
    if "kana" in counts:
        counts["kana"] += counts.pop("han", 0)
    return counts


def main_script(text: str) -> str | None:
    """The script that most letters belong to; None if there are no letters."""
    return most(letters_by_script(text))


def most(counts: Counter[str]) -> str | None:
    """The script with the most letters; of equal ones, the first of `SCRIPTS`."""
    return max(SCRIPTS, key=lambda name: counts[name]) if counts.total() else None
