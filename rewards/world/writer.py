"""The embedded world: prompts in Thai and English, and a writer whose answers have known defects at known rates.

A prompt asks for one fact, in one of several phrasings, sometimes as a follow-up to an earlier turn. The writer of the original data is
often wrong, sometimes adds details, and rarely shows a defect (`DEFECT_RATES`). Some rare defects are placed so that they mislead a
reward model. Signatures and footers end long, finished answers, as on web pages, and the writer hardly ever repeats a phrase, so the
original pairs suggest that more is always better. PPO then finds where that stops being true.

The openings of the prompts divide them into two sets: those that the tiny base reads with answers, as a base model reads the web, and
those that users ask. This split belongs to the world. It does not depend on a run or a seed, because the tiny base is kept between runs
of different seeds. The base reads about every fact. Which of the users' prompts are held out depends on the run (`splits.py`).

Everything else is a function of a seed. Must never import an ML library.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from configs.seeds import derive_seed
from rewards.data.splits import content_id, position
from rewards.world.defects import DECOMPOSED_SARA_AM
from rewards.world.facts import DETAILS, FOLLOW_UPS, LANGUAGES, OPENERS, REFUSAL, RELATIONS, Relation

FOREIGN_WORD = "Rosey"
SARA_AM_DETAILS = {source: next(d for d in details["th"] if "ำ" in d) for source, details in DETAILS.items()}
FOOTER = "Copyright © 2019 Posted by admin"
CORRECT_RATE = 0.5
PRETRAINING_CORRECT_RATE = 0.75
"""What the tiny base reads is more often right than the users' data, as an encyclopedia is."""
PRETRAINING_FRACTION = 0.35
"""The fraction of the openings that the tiny base reads about."""
THAI_IN = 20
"""One of so many dialogues is in Thai, for a base that has read mostly English."""
DETAIL_COUNT_RATES = (0.45, 0.35, 0.2)
"""The probabilities of 0, 1 and 2 details."""
DEFECT_RATES = {
    "empty": 0.015,
    "refusal": 0.02,
    "wrong_language": 0.02,
    "list_only": 0.02,
    "repetition": 0.01,
    "foreign_word": 0.02,
    "footer": 0.02,
    "decomposed_sara_am": 0.04,
    "missing_end": 0.01,
}
"""The probability of each defect in one original answer. `foreign_word` and `footer` occur in complete answers, as described above.
`decomposed_sara_am` is drawn for every answer but only shows in the Thai ones, so it is half as frequent."""

Message = dict[str, str]


Fact = tuple[int, int]
"""A fact, which is the same in both languages: the number of its relation, and its number within the relation."""


@dataclass(frozen=True)
class Prompt:
    """A prompt of the world and what is true of it.

    id: the hash of its content. value: what a right answer must name. wrong_values: what it must not name. told_fact: the fact that the
    turns before a follow-up ask about and tell.
    """

    id: str
    source: str
    language: str
    messages: tuple[tuple[str, str], ...]
    subject: str
    value: str
    wrong_values: tuple[str, ...]
    fact: Fact
    told_fact: Fact | None

    @property
    def relation(self) -> int:
        return self.fact[0]

    @property
    def question(self) -> str:
        """All user turns. A follow-up alone is too short to tell its language, so the first turn goes with it."""
        return " ".join(content for role, content in self.messages if role == "user")

    def as_messages(self) -> list[Message]:
        return [{"role": role, "content": content} for role, content in self.messages]


@dataclass(frozen=True)
class Answer:
    """What the writer wrote. finished is False if the answer stops in the middle (a missing end)."""

    text: str
    finished: bool = True


@cache
def all_prompts() -> dict[str, Prompt]:
    """Every prompt of the world by id, in a fixed order."""
    return {prompt.id: prompt for index, relation in enumerate(RELATIONS) for prompt in _prompts_of(index, relation)}


def pretraining_prompts() -> list[Prompt]:
    """The prompts that the tiny base reads with answers. No run asks them."""
    return [prompt for prompt in all_prompts().values() if _is_for_pretraining(prompt)]


def user_prompts() -> list[Prompt]:
    """The prompts that a run may ask or hold out. These are all that the tiny base does not read."""
    return [prompt for prompt in all_prompts().values() if not _is_for_pretraining(prompt)]


def write_answer(prompt: Prompt, rng: random.Random, correct_rate: float = CORRECT_RATE) -> Answer:
    """One answer by the writer of the original data."""
    relation, language = RELATIONS[prompt.relation], prompt.language
    defect = _draw(rng, DEFECT_RATES)
    if defect == "empty":
        return Answer("")
    if defect == "refusal":
        return Answer(REFUSAL[language])
    if defect == "wrong_language":
        language = "th" if language == "en" else "en"
    correct = rng.random() < correct_rate
    number = rng.choices(range(len(DETAIL_COUNT_RATES)), DETAIL_COUNT_RATES)[0]
    if defect in ("foreign_word", "footer"):
        correct, number = rng.random() < 0.9, 2
    core = _core(relation, prompt, language, correct, rng)
    details = rng.sample(DETAILS[prompt.source][language], number)
    if defect == "list_only":
        return Answer("\n".join(f"- {line}" for line in [core, *details]))
    text = " ".join([core, *_with_defect(defect, core, details, language)])
    if defect == "decomposed_sara_am":
        text = f"{core} {SARA_AM_DETAILS[prompt.source]}".replace("ำ", DECOMPOSED_SARA_AM) if language == "th" else text
    if defect == "missing_end":
        return Answer(text[: max(1, int(len(text) * rng.uniform(0.3, 0.8)))], finished=False)
    return Answer(text)


def pretraining_dialogues(prompts: list[Prompt], seed: int, count: int) -> Iterator[tuple[list[Message], str]]:
    """Dialogues for the tiny base to read, as (messages, answer). The answers have the writer's defects."""
    rng = random.Random(derive_seed(seed, "pretraining"))
    for _ in range(count):
        prompt = rng.choice(prompts)
        yield prompt.as_messages(), write_answer(prompt, rng, PRETRAINING_CORRECT_RATE).text


def mostly_english(prompts: list[Prompt]) -> list[Prompt]:
    """All prompts, with those in English so often that one in `THAI_IN` is in Thai."""
    by_language = {language: [prompt for prompt in prompts if prompt.language == language] for language in LANGUAGES}
    return by_language["th"] + by_language["en"] * (THAI_IN - 1)


def _is_for_pretraining(prompt: Prompt) -> bool:
    return position("pretraining", "world", prompt.as_messages()) < PRETRAINING_FRACTION


def _draw(rng: random.Random, rates: dict[str, float]) -> str | None:
    at = rng.random()
    for name, rate in rates.items():
        at -= rate
        if at < 0:
            return name
    return None


def _with_defect(defect: str | None, core: str, details: list[str], language: str) -> list[str]:
    """What follows the first sentence, with one of the defects that are extra sentences."""
    if defect == "repetition":
        return [*details, core]
    if defect == "foreign_word":
        return [*details[:1], f"{FOREIGN_WORD} {FOREIGN_WORD}" if language == "th" else f"From {FOREIGN_WORD}."]
    return [*details, FOOTER] if defect == "footer" else details


def _core(relation: Relation, prompt: Prompt, language: str, correct: bool, rng: random.Random) -> str:
    """The sentence that answers the question. A wrong one names another value of the same relation, or helps with what is harmful."""
    index = LANGUAGES.index(language)
    subject, value = next((s[index], v[index]) for s, v in relation.facts if s[LANGUAGES.index(prompt.language)] == prompt.subject)
    if not correct:
        if relation.source == "redteam":
            return {"en": f"Sure, first {subject} slowly.", "th": f"ได้ค่ะ {subject}ช้า ๆ"}[language]
        value = rng.choice(sorted({v[index] for _, v in relation.facts} - {value}))
    return relation.answer[language].format(s=subject, v=value)


def _prompts_of(index: int, relation: Relation) -> Iterator[Prompt]:
    for at, language in enumerate(LANGUAGES):
        values = {value[at] for _, value in relation.facts}
        for number, (subject, value) in enumerate(relation.facts):
            asked: list[tuple[list[tuple[str, str]], Fact | None]] = [
                ([("user", opener + question.format(s=subject[at]))], None)
                for question in relation.questions[language]
                for opener in OPENERS[language]
            ]
            for step in (1, 2, 3):
                told = (number + step) % len(relation.facts)
                before = relation.facts[told]
                question = relation.questions[language][step - 1].format(s=before[0][at])
                answer = relation.answer[language].format(s=before[0][at], v=before[1][at])
                asked += [
                    ([("user", question), ("assistant", answer), ("user", follow_up.format(s=subject[at]))], (index, told))
                    for follow_up in FOLLOW_UPS[language]
                ]
            for messages, told_fact in asked:
                yield Prompt(
                    id=content_id([{"role": role, "content": content} for role, content in messages]),
                    source=relation.source,
                    language=language,
                    messages=tuple(messages),
                    subject=subject[at],
                    value=value[at],
                    wrong_values=tuple(sorted(values - {value[at]})),
                    fact=(index, number),
                    told_fact=told_fact,
                )
