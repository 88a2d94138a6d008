"""Rules on the language of a completion, by its script. No word list: English is not told from French."""

import re
from collections import Counter
from collections.abc import Collection

from rewards.rules import texts
from rewards.rules.reply import Reply
from rewards.rules.verdict import Verdict

WRONG_LETTERS = 0.5
"""The most of the letters that may be of another script than the expected one: the majority decides."""
EXPECTED_SCRIPT = {"th": "thai", "en": "latin"}

_BRACKETS = re.compile(r"[(\[（「『《“\"‘][^()\[\]（）「」『』《》“”\"‘’]*[)\]）」』》”\"’]")
_NAME = r"[A-Z][a-z]+"
_ADDRESSED = re.compile(
    rf"\b({_NAME})[,]?\s+\1\b"  # the name twice
    rf"|[.!?] (?:From )?({_NAME}) ?[.!]* ?(?=$|\n)"  # alone as the last sentence of a line
    rf"|\b[a-z]+, ({_NAME}) ?[.!?]* ?(?=$|\n)"  # after a comma, as the last word of a line
    rf"|(?:คะ|ค่ะ|ครับ|นะ|จ้ะ|จ้า)\s*({_NAME})\b",  # after a Thai polite particle
    re.MULTILINE,
)
_NEVER_FOREIGN = frozenset({"latin", "greek"})
"""Scripts whose letters are at home in any text: names, units and formulas."""
_ALONE = re.compile(
    r"(?:Yes|No|Ok|Okay|Thanks|Thank|Hello|Hi|Hey|Bye|Goodbye|Sorry|Please|Sure|Great|Good|Nice|Well|True|False|None|Maybe"
    r"|Always|Never|Right|Wrong|Correct|Done|Amen|Cheers|Enjoy|Help|Stop|Wait|What|Why|How|Who|When|Where|Love|Sincerely"
    r"|Regards)"
)
"""Words that stand alone in English, so that they are no names."""


def wrong_language(reply: Reply) -> Verdict:
    """The answer is in another language than the one asked for. Measured: the share of its letters in scripts other than the expected.

    `expected_language` says which that is: `th`, `en`, that of the question (`same`), or none (`any`). Code, addresses, words of the
    question and capitalized words, which are names, are not counted. Languages are told apart by script only, so Chinese, Russian or
    English in place of Thai is found, and French in place of English is not. Source of the threshold: the majority of the letters.
    """
    expected = _expected_script(reply)
    if expected is None:
        return Verdict("wrong_language", 0.0, WRONG_LETTERS)
    counts = _letters_without_names(reply.text, known=set(texts.LATIN_WORD.findall(reply.question)))
    other = sum(number for script, number in counts.items() if not _fits(script, expected))
    return Verdict("wrong_language", other / max(1, sum(counts.values())), WRONG_LETTERS, f"letters that are not {expected}")


def foreign_word(reply: Reply) -> Verdict:
    """A word that does not belong there. Measured: how many there are.

    Found are: a word in a script that neither the question nor most of the answer is written in, such as Chinese inside Thai; and a name
    that nobody has mentioned where only the name of a person who is spoken to can stand, such as "Rosey": said twice in a row,
    alone as a last sentence, or after a comma or a Thai polite particle at the end. What is in quotes or brackets is not counted. A name in
    the middle of a sentence is not found, because no rule can tell it from one that belongs there. The threshold of 0 needs no source.
    """
    text = re.sub(r"[^\S\n]+", " ", texts.prose(reply.text))
    value = len(_words_of_third_scripts(reply, text)) + len(_names_out_of_place(reply, text))
    return Verdict("foreign_word", float(value), 0.0, "words out of place")


def _expected_script(reply: Reply) -> str | None:
    if reply.expected_language == "any":
        return None
    asked = EXPECTED_SCRIPT.get(reply.expected_language) or texts.most(_letters_without_names(reply.question))
    return asked or texts.main_script(texts.prose(reply.question))


def _letters_without_names(text: str, known: Collection[str] = ()) -> Counter[str]:
    """The letters of a text by script. Latin words with a capital letter, which may be names, and known ones are not counted."""
    found = texts.words_by_script(texts.prose(text))
    if "latin" in found:
        found["latin"] = [word for word in found["latin"] if word not in known and not word[0].isupper()]
    return texts.letters_in(found)


def _fits(script: str, expected: str) -> bool:
    """Whether letters of a script are at home where another is expected. Japanese is written in Chinese letters too."""
    return script == expected or {script, expected} == {"han", "kana"}


def _words_of_third_scripts(reply: Reply, text: str) -> list[str]:
    """The words in scripts that the question does not have and that are not the answer's main one."""
    if text.isascii():
        return []
    main, asked = texts.main_script(text), texts.letters_by_script(reply.question)
    found = texts.words_by_script(_BRACKETS.sub(" ", text))
    at_home = {*asked, *_NEVER_FOREIGN, main} | ({"han", "kana"} if {main, *asked} & {"han", "kana"} else set())
    return [word for script, words in found.items() if script not in at_home for word in words]


def _names_out_of_place(reply: Reply, text: str) -> list[str]:
    """The names of persons who are spoken to and whom the question does not mention."""
    asked = set(texts.LATIN_WORD.findall(reply.question))
    found = [next(name for name in match.groups() if name) for match in _ADDRESSED.finditer(text)]
    return [name for name in found if name not in asked and not _ALONE.fullmatch(name)]
