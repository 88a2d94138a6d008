"""A translator that is made for the embedded world: its phrases in Thai and English, one for the other.

The world has the same questions, answers, openers and details in both languages, in the same order, so at error rate 0 each of its prompts
becomes the same prompt in the other language, and back. What a policy makes up is translated phrase by phrase, from the left, always by
the longest phrase that is known; anything else is copied. With an error rate, each phrase, each subject and each value is replaced by
another one of its kind with this probability. The text, its place in it and the direction decide, so the same text always gets the same
translation. Must never import an ML library.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from configs.seeds import derive_seed
from rewards.world.facts import DETAILS, FOLLOW_UPS, LANGUAGES, OPENERS, REFUSAL, RELATIONS, Relation

Item = TypeVar("Item")
Kind = tuple[object, ...]
"""Phrases of one kind can stand for each other: a wrong translation is another phrase of the same kind."""
HARMFUL_HELP = {"en": "Sure, first {s} slowly.", "th": "ได้ค่ะ {s}ช้า ๆ"}
"""What the world's writer says where it should refuse (`writer.py`)."""
_LETTERS = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True)
class Template:
    """A phrase in both languages, perhaps with places for a subject {s} and a value {v} of a relation, and the others of its kind."""

    kind: Kind
    texts: dict[str, str]
    relation: Relation | None = None


@dataclass(frozen=True)
class Phrase:
    """A template with its places filled, by the numbers of the subject and of the value in the relation."""

    template: Template
    subject: int | None = None
    value: int | None = None

    def text(self, language: str) -> str:
        """The phrase in a language."""
        return self.template.texts[language].format(s=_entry(self, 0, self.subject, language), v=_entry(self, 1, self.value, language))


class Dictionary:
    """The translator. `name` says what a record has to say of it."""

    def __init__(self, error_rate: float = 0.0):
        self.error_rate = error_rate
        self.name = f"dictionary, error rate {error_rate:g}" if error_rate else "dictionary"

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str | None]:
        """Each text in the other language."""
        return [self._translate(text, source, target) for text in texts]

    def _translate(self, text: str, source: str, target: str) -> str:
        at, parts = 0, []
        while at < len(text):
            if found := _longest(text, at, source):
                spelling, phrase = found
                rng = random.Random(derive_seed("dictionary", source, target, text, at))
                parts.append(self._render(phrase, target, rng))
                at += len(spelling)
            else:
                word = _LETTERS.match(text, at)  # an unknown word is copied whole, so that no phrase is found inside it
                parts.append(word[0] if word else text[at])
                at += len(parts[-1])
        return "".join(parts)

    def _render(self, phrase: Phrase, target: str, rng: random.Random) -> str:
        template, relation = phrase.template, phrase.template.relation
        if rng.random() < self.error_rate:
            template = _another(rng, [other for other in _templates() if other.kind == template.kind], template)
        subject, value = phrase.subject, phrase.value
        numbers = range(len(relation.facts)) if relation else range(0)
        if subject is not None and rng.random() < self.error_rate:
            subject = _another(rng, numbers, subject)
        if relation and value is not None and rng.random() < self.error_rate:
            right = relation.facts[value][1]
            value = _another(rng, [number for number in numbers if number == value or relation.facts[number][1] != right], value)
        if template.relation not in (None, relation):  # a phrase of another relation, about the same things
            template = Template(template.kind, template.texts, relation)
        return Phrase(template, subject, value).text(target)


def _entry(phrase: Phrase, part: int, number: int | None, language: str) -> str:
    """The subject (part 0) or the value (part 1) of a phrase's relation."""
    relation = phrase.template.relation
    return "" if relation is None or number is None else relation.facts[number][part][LANGUAGES.index(language)]


def _another(rng: random.Random, items: Sequence[Item], own: Item) -> Item:
    """Another one of the items, or the same if there is none."""
    others = [item for item in items if item != own]
    return rng.choice(others) if others else own


@cache
def _templates() -> tuple[Template, ...]:
    """All phrases of the world, whole sentences and openers before the words in them."""
    both = LANGUAGES
    found = [Template(("opener",), {of: OPENERS[of][i] for of in both}) for i in range(1, len(OPENERS["en"]))]
    found += [Template(("refusal",), REFUSAL)]
    for source, details in DETAILS.items():
        found += [Template(("detail", source), {of: details[of][i] for of in both}) for i in range(len(details["en"]))]
    for relation in RELATIONS:
        for i in range(len(relation.questions["en"])):
            found.append(Template(("question",), {of: relation.questions[of][i] for of in both}, relation))
        found += [Template(("follow up",), {of: FOLLOW_UPS[of][i] for of in both}, relation) for i in range(len(FOLLOW_UPS["en"]))]
        if relation.source == "redteam":
            found.append(Template(("help",), HARMFUL_HELP, relation))
        else:
            found.append(Template(("answer",), relation.answer, relation))
            found.append(Template(("value", relation.source), dict.fromkeys(both, "{v}"), relation))
        found.append(Template(("subject", relation.source), dict.fromkeys(both, "{s}"), relation))
    return tuple(found)


def _filled(template: Template) -> Iterator[Phrase]:
    """All phrases of a template."""
    facts = range(len(template.relation.facts)) if template.relation else range(0)
    text = template.texts["en"]
    for subject in facts if "{s}" in text else (None,):
        for value in facts if "{v}" in text else (None,):
            yield Phrase(template, subject, value)


@cache
def _phrases(language: str) -> dict[str, list[tuple[str, Phrase]]]:
    """The phrases by their first two characters, the longest first. Of two with the same spelling, the first one counts."""
    by_spelling: dict[str, Phrase] = {}
    for template in _templates():
        for phrase in _filled(template):
            by_spelling.setdefault(phrase.text(language), phrase)
    found: dict[str, list[tuple[str, Phrase]]] = {}
    for spelling in sorted(by_spelling, key=len, reverse=True):
        found.setdefault(spelling[:2], []).append((spelling, by_spelling[spelling]))
    return found


def _longest(text: str, at: int, language: str) -> tuple[str, Phrase] | None:
    """The longest phrase that begins at a place of a text. A phrase that ends in a Latin letter does not end inside a word."""
    for spelling, phrase in _phrases(language).get(text[at : at + 2], ()):
        end = at + len(spelling)
        inside = spelling[-1].isascii() and spelling[-1].isalpha() and text[end : end + 1].isascii() and text[end : end + 1].isalpha()
        if text.startswith(spelling, at) and not inside:
            return spelling, phrase
    return None
