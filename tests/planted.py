"""Real text with defects planted in it: what the rules must find, and the same text without, in which they must find nothing.

The texts are those of the folder that LOOP_SHARED_DATA names. A document belongs to one of two halves by the hash of its text. Thresholds
and patterns were chosen on the half `tune`; the table of docs/rules.md is made from the half `report`.
"""

import functools
import gzip
import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rewards.rules.duplicates import Texts
from rewards.rules.reply import Reply

HALVES = ("tune", "report")
LANGUAGES = ("en", "th")
ENTERED = 300
"""How many texts a clean one is compared with."""


@dataclass(frozen=True)
class Document:
    """A real text as the answer to a question. source: the folder that it comes from."""

    text: str
    question: str
    language: str
    source: str

    @property
    def half(self) -> str:
        return HALVES[hashlib.sha256(self.text.encode()).digest()[0] % 2]

    def reply(self, text: str | None = None) -> Reply:
        return Reply(self.question, self.text if text is None else text, source=self.source)


# -- real text ------------------------------------------------------------------------------------------------------------


def read(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@functools.cache
def documents(folder: Path) -> tuple[Document, ...]:
    """All documents of the folder, each text once, with the questions of XQuAD where a text has none of its own."""
    found: dict[str, Document] = {}
    for document in _documents(folder):
        found.setdefault(document.text, document)
    return tuple(found.values())


def _documents(folder: Path) -> Iterator[Document]:
    asked: dict[str, list[str]] = {}
    for language in LANGUAGES:
        rows = read(folder / "xquad_th_en" / f"xquad_{language}.jsonl.gz")
        asked[language] = [row["question"] for row in rows]
        yield from (Document(row["context"].strip(), row["question"], language, "xquad") for row in rows)
    for source, language, text in _texts_without_question(folder):
        yield Document(text, random.Random(text).choice(asked[language]), language, source)
    for tree in read(folder / "oasst_en100" / "en_100_tree.jsonl.gz"):
        for reply in tree["prompt"]["replies"]:
            yield Document(reply["text"].strip(), tree["prompt"]["text"], "en", "oasst")


def _texts_without_question(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Source, language and text. The press texts come without their source line, and with their sara am as one character."""
    for row in read(folder / "thaigov_th" / "thaigov_900.jsonl.gz"):
        text = re.sub(r"\s*ที่มา\s*:\s*\S+\s*$", "", row["text"].replace("\ufeff", ""))
        yield "thaigov", "th", re.sub("\u0e4d([\u0e48-\u0e4b]?)\u0e32", "\\1\u0e33", text).strip()
    for row in read(folder / "tatoeba_en_th" / "tatoeba_en_th.jsonl.gz"):
        yield from (("tatoeba", language, row[language].strip()) for language in LANGUAGES)
    for path in sorted((folder / "wisesight_th").glob("*.jsonl.gz")):
        found = (row["text"].strip() for row in read(path))
        yield from (("wisesight", "th", text) for text in found if len(text) >= 20 and len(re.findall("[ก-ฮ]", text)) >= 10)
    for row in read(folder / "web_noise" / "c4_demo.jsonl.gz"):
        yield "c4", "en", row["text"].strip()


# -- planting -------------------------------------------------------------------------------------------------------------

Plant = Callable[[Document, random.Random, "Pools"], Reply | None]
"""Writes a defect into a document. None: the document does not suit, for example because it is too short."""


@dataclass(frozen=True)
class Pools:
    """Other texts of the same half that a defect may need, by language."""

    texts: dict[str, list[str]]
    entered: dict[str, Texts]
    """The first of them, with their questions."""

    def other(self, language: str, rng: random.Random, longest: int = 400) -> str:
        return rng.choice([text for text in self.texts[language][:400] if len(text) <= longest])


def sentences(document: Document) -> list[str]:
    """The pieces between which something can be inserted."""
    cut = r"(?<=[.!?])\s+" if document.language == "en" else r"\s+"
    return [" ".join(piece.split()) for piece in re.split(cut, document.text) if piece.strip()]


def inserted(document: Document, rng: random.Random, what: str) -> str:
    """The text with something inserted between two of its words (in Thai, where it has a space)."""
    words = document.text.split(" ")
    at = rng.randrange(1, len(words) + 1)
    return " ".join([*words[:at], what, *words[at:]])


def repeat(document: Document, rng: random.Random, pools: Pools) -> Reply | None:
    """A loop at the end, as models that do not stop write it: a word, a phrase, a sentence, or the whole answer again and again."""
    kind, text = rng.choice(["word", "phrase", "sentence", "twice"]), document.text
    start = text[: rng.randrange(20, 400)]
    pieces = [piece for piece in sentences(document) if len(piece) >= 12]
    if not pieces:
        return None
    if kind == "twice":
        return document.reply(f"{text}\n{text}") if len(text) < 2000 else None
    piece = rng.choice(pieces)
    if kind == "sentence":
        return document.reply(f"{start} " + " ".join([piece] * rng.randrange(3, 7)))
    size = {"word": 1, "phrase": rng.randrange(2, 5)}[kind]
    if document.language == "en":
        words = piece.split()[:size]
        return document.reply(f"{start} " + " ".join(words * rng.randrange(8, 20)))
    cut = re.findall(r"[เ-ไ]?[ก-ฮ][^เ-ไก-ฮ]*", piece)[: 2 * size]
    return document.reply(f"{start} " + "".join(cut) * rng.randrange(8, 20)) if cut else None


def as_list(document: Document, rng: random.Random, pools: Pools) -> Reply | None:
    """Each sentence as an item."""
    pieces = sentences(document)[:12]
    mark = rng.choice(["- ", "* ", "• ", "1. ", "1) "])
    items = [(f"{i}{mark[1:]}" if mark[0] == "1" else mark) + piece for i, piece in enumerate(pieces, 1)]
    return document.reply("\n".join(items)) if len(items) > 1 else None


FOOTERS = {
    "en": [
        "Copyright © 2019 Posted by admin",
        "© 2021 Example Media Ltd. All rights reserved.",
        "posted in news by admin",
        "Posted by John on May 3, 2018 at 9:14 am",
        "Copyright (c) 2015 Example Inc.",
        "By using this site you agree to our Terms of Use and Privacy Policy.",
        "This site uses cookies.",
        "Share this:",
        "Leave a comment",
        "Subscribe to our newsletter",
    ],
    "th": [
        "ที่มา : https://www.example.go.th/news/17563",
        "ที่มา: www.example.com",
        "สงวนลิขสิทธิ์ © 2562",
        "© 2021 บริษัท ตัวอย่าง จำกัด",
        "ลิขสิทธิ์ © 2563 สำนักข่าวตัวอย่าง",
        "อ่านต่อ >>",
        "โพสต์โดย admin",
        "ติดตามเราได้ที่ Facebook",
    ],
}
REFUSALS = {
    "en": [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with that request.",
        "I am unable to provide that information.",
        "As an AI language model, I cannot answer this question.",
        "I apologize, but I won't be able to help you with this.",
        "Unfortunately, I can't provide an answer to that.",
        "I'm not able to discuss this topic.",
        "I must decline to answer.",
        "I'm not comfortable answering that.",
        "Sorry, I can't do that.",
        "I will not answer that question.",
        "I'd rather not talk about that.",
        "It goes against my guidelines to answer this.",
    ],
    "th": [
        "ขออภัยค่ะ ฉันไม่สามารถช่วยเรื่องนี้ได้",
        "ขอโทษครับ ผมไม่สามารถตอบคำถามนี้ได้",
        "ช่วยเรื่องนี้ไม่ได้ค่ะ",
        "ไม่สามารถให้ข้อมูลในเรื่องนี้ได้",
        "ฉันเป็นปัญญาประดิษฐ์ จึงตอบคำถามนี้ไม่ได้",
        "ขอปฏิเสธที่จะตอบค่ะ",
        "เสียใจด้วยครับ เรื่องนี้ผมช่วยไม่ได้",
        "ในฐานะโมเดลภาษา ฉันไม่อาจให้คำแนะนำเรื่องนี้",
    ],
}
FOREIGN = ["中国", "今天", "привет", "хорошо", "مرحبا", "こんにちは", "안녕하세요", "שלום", "नमस्ते", "的", "это"]
NAMES = ["Rosey", "Marlow", "Tinsel", "Quincy", "Dorothea", "Bramwell", "Odette", "Fenton"]


def put_footer(document: Document, rng: random.Random, pools: Pools) -> Reply:
    """A line of small print below the text."""
    return document.reply(document.text + rng.choice(["\n", "\n\n"]) + rng.choice(FOOTERS[document.language]))


def nothing(document: Document, rng: random.Random, pools: Pools) -> Reply:
    """White space, and characters that nobody sees."""
    return document.reply("".join(rng.choices([" ", "\n", "\t", "\u200b", "\ufeff", "\u00a0"], k=rng.randrange(4))))


def decline(document: Document, rng: random.Random, pools: Pools) -> Reply:
    """A refusal, half of the time with the first sentences of a real text behind it."""
    rest = f" {document.text[:200]}" if rng.random() < 0.5 else ""
    return document.reply(rng.choice(REFUSALS[document.language]) + rest)


def foreign(document: Document, rng: random.Random, pools: Pools) -> Reply:
    """A word of a third script anywhere, or a name that nobody mentioned where a person is spoken to."""
    if rng.random() < 0.5:
        return document.reply(inserted(document, rng, rng.choice(FOREIGN)))
    name, text = rng.choice(NAMES), document.text
    if document.language == "th":
        return document.reply(rng.choice([f"{text} {name} {name}", f"{text}ค่ะ {name}", f"{name} {name} {text}"]))
    ended = text if text[-1] in ".!?" else f"{text}."
    return document.reply(
        rng.choice([f"{ended} From {name}.", f"{ended} {name}.", f"{text.rstrip('.!?')} indeed, {name}.", f"{ended} {name} {name}"])
    )


def other_language(document: Document, rng: random.Random, pools: Pools) -> Reply:
    """A text of the other language as the answer."""
    return document.reply(pools.other("th" if document.language == "en" else "en", rng, longest=3000))


def cut_by_limit(document: Document, rng: random.Random, pools: Pools) -> Reply | None:
    """Cut in the middle, as the sampler does at its token limit, which it says."""
    return replace(document.reply(_cut(document, rng)), finished=False)


def cut_silently(document: Document, rng: random.Random, pools: Pools) -> Reply | None:
    """Cut in the middle of a sentence of ten words or more, and nothing says so. English only."""
    if document.language != "en":
        return None
    long = [piece for piece in sentences(document) if len(piece.split()) >= 14 and "\n" not in piece and piece[0].isalpha()]
    if not long:
        return None
    piece = rng.choice(long)
    words = piece.split()
    at = rng.randrange(10, len(words) - 2)
    return document.reply(" ".join(words[:at]).rstrip(".,;:!?\"')"))


def _cut(document: Document, rng: random.Random) -> str:
    return document.text[: max(1, int(len(document.text) * rng.uniform(0.3, 0.8)))]


def decompose(document: Document, rng: random.Random, pools: Pools) -> Reply | None:
    """Each sara am as two characters, half of the time in the order in which the tone mark is between them."""
    if "ำ" not in document.text:
        return None
    if rng.random() < 0.5:
        return document.reply(document.text.replace("ำ", "\u0e4d\u0e32"))
    return document.reply(re.sub("([\u0e48-\u0e4b]?)\u0e33", "\u0e4d\\1\u0e32", document.text))


def echo(document: Document, rng: random.Random, pools: Pools) -> Reply | None:
    """The question again, alone or before the text."""
    words = len(document.question.split()) if document.language == "en" else len(document.question) / 5.4
    if words < 9:
        return None
    return document.reply(document.question + rng.choice(["", f"\n{document.text}", f" {document.text[:200]}"]))


GREETINGS = {
    "en": ["Hi", "Hello!", "Hey there", "Good morning", "How are you?", "hello, how are you today?", "Good evening!", "Hey, what's up?"],
    "th": ["สวัสดีค่ะ", "สวัสดีครับ", "หวัดดี", "สบายดีไหม", "ดีจ้า", "สวัสดีตอนเช้า", "ยินดีที่ได้รู้จัก"],
}


def list_for_greeting(document: Document, rng: random.Random, pools: Pools) -> Reply | None:
    """A greeting, and a list as the answer."""
    listed = as_list(document, rng, pools)
    return replace(listed, prompt=rng.choice(GREETINGS[document.language])) if listed else None


def nearly_same(document: Document, rng: random.Random, pools: Pools) -> Reply | None:
    """The text with a word more at its end, while another prompt has been given the text itself."""
    if len(document.text) < 150:
        return None
    others = Texts([("another prompt", document.text), ("a third prompt", pools.other(document.language, rng))])
    return replace(document.reply(f"{document.text} {rng.choice(['ok', 'ค่ะ', '1'])}"), others=others)


PLANTS: dict[str, Plant] = {
    "empty": nothing,
    "list_only": as_list,
    "repetition": repeat,
    "footer": put_footer,
    "refusal": decline,
    "foreign_word": foreign,
    "wrong_language": other_language,
    "missing_end": cut_by_limit,
    "cut_off": cut_silently,
    "decomposed_sara_am": decompose,
    "repeats_prompt": echo,
    "greeting_list": list_for_greeting,
    "near_duplicate": nearly_same,
}
"""The rule that must find the defect -> what plants it."""
NOT_CLEAN = {"footer": ("c4",), "repetition": ("c4",), "list_only": ("oasst",), "greeting_list": ("oasst",)}
"""Sources whose texts have the defect by nature: C4's pages have real footers and some are spam, and some answers of people are lists."""


def draw(folder: Path, rule: str, language: str, half: str, count: int) -> tuple[list[Reply], list[Reply]]:
    """`count` replies with a rule's defect planted, or as many as there are, and as many clean ones, of all sources alike."""
    pools = _pools(folder, half)
    own, rng = _shuffled(folder, language, half), random.Random(f"{rule} {language} {half}")
    planted, clean = [], []
    for document in own:
        if len(planted) < count and (reply := PLANTS[rule](document, rng, pools)) is not None:
            planted.append(reply)
        if len(clean) < count and document.source not in NOT_CLEAN.get(rule, ()):
            is_greeting = rule == "greeting_list" and rng.random() < 0.5
            reply = replace(document.reply(), others=pools.entered[language] if rule == "near_duplicate" else None)
            clean.append(replace(reply, prompt=rng.choice(GREETINGS[language])) if is_greeting else reply)
    return planted, clean


@functools.cache
def _pools(folder: Path, half: str) -> Pools:
    by_language = {language: _shuffled(folder, language, half) for language in LANGUAGES}
    entered = {language: Texts((d.question, d.text) for d in found[:ENTERED]) for language, found in by_language.items()}
    return Pools({language: [d.text for d in found] for language, found in by_language.items()}, entered)


@functools.cache
def _shuffled(folder: Path, language: str, half: str) -> list[Document]:
    """The documents of one half, the sources in turn, so that the first ones are of all of them."""
    by_source: dict[str, list[Document]] = {}
    for document in documents(folder):
        if document.language == language and document.half == half:
            by_source.setdefault(document.source, []).append(document)
    ranked = []
    for source, found in by_source.items():
        random.Random(source).shuffle(found)
        ranked += [(i, source, document) for i, document in enumerate(found)]
    return [document for _, _, document in sorted(ranked, key=lambda row: row[:2])]
