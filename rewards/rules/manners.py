"""Rules on how an answer treats the question: it declines, repeats the question, or answers a greeting with a list."""

import re

from rewards.rules import form, texts
from rewards.rules.reply import Reply
from rewards.rules.verdict import Verdict

REFUSAL_CHARACTERS = 300
"""A refusal stands at the beginning. "I cannot" later in a text tells a story."""
ECHOED = 0.8
"""The most of the question's n-grams that an answer may have: the same bound as for near duplicates (arXiv 2107.06499, section 4.2)."""
ECHO_SHINGLE = 5
ECHO_WORDS = 8
"""A shorter question may stand in its answer: "the capital of France is ..." """
GREETING_WORDS = 6
"""The longest greeting."""

_DO = (
    r"(?:help|assist|aid|answer|comply|respond|fulfill?|discuss|recommend|advise|condone|encourage|promote|facilitate|participate in"
    r"|engage in|(?:do|provide|give|offer|share|support|write|create|generate|produce|complete|talk about|continue with)"
    r" (?:you|that|this|it|an?|any|the|such|these|those|information|advice|instructions|details|with)\b)"
)
_NOT = (
    r"(?:can(?:['’]?t|not| not)|won['’]?t|will not|am unable to|am not able to|(?:could|would|do) not"
    r"|(?:must|have to) decline to|refuse to)"
)
_REFUSAL = re.compile(
    rf"\bI(?: (?:simply|really|just|unfortunately|also|personally))? {_NOT}(?: (?:be able to|in good conscience|directly|really))? {_DO}"
    r"|\b(?:sorry|apologi[sz]e|afraid|unfortunately)\b[^.\n]{0,40}\bI(?:['’]m| am)?"
    r" (?:can(?:['’]?t|not| not)|won['’]?t|unable|not able|not comfortable)\b"
    r"|\bI(?:['’]m| am) (?:unable|not able|not allowed|not permitted|not comfortable|not programmed|not designed)\b"
    r"|\bI(?:['’]m| am) (?:just |only )?an AI\b|\bas an? (?:AI|artificial intelligence|(?:large )?language model)\b"
    r"|\bI (?:must|have to|will have to) (?:respectfully |politely )?(?:decline|refuse)\b|\bI(?:['’]d| would) (?:rather|prefer) not\b"
    r"|\b(?:against|goes against|violates) my (?:guidelines|programming|policy|principles)\b",
    re.IGNORECASE,
)
_THAI_REFUSAL = re.compile(
    r"(?:ไม่สามารถ|ไม่อาจ|ไม่ขอ|มิอาจ)(?:ที่จะ)?\s*(?:ช่วย|ให้ความช่วยเหลือ|ตอบ|ให้ข้อมูล|ให้คำ|แนะนำ|ทำตาม|ทำเรื่อง|ดำเนินการ|สนับสนุน|พูดถึง|เขียน|สร้าง)"
    r"|ช่วย(?:เหลือ)?(?:คุณ)?(?:ใน)?(?:เรื่องนี้|เรื่องนั้น)?(?:ไม่ได้|ไม่ไหว)|ขอปฏิเสธ|ขออนุญาตไม่ตอบ|ตอบ(?:เรื่องนี้|คำถามนี้)?ไม่ได้"
    r"|(?:ขอโทษ|ขออภัย|เสียใจ)[^\n]{0,30}(?:ไม่สามารถ|ไม่ได้|ไม่อาจ)|(?:ในฐานะ|ฉันเป็น|ผมเป็น|เป็นเพียง)\s*(?:ปัญญาประดิษฐ์|AI|เอไอ|โมเดลภาษา)"
)
_GREETING = re.compile(
    r"\s*(?:(?:hi|hello|hey|hiya|howdy|yo|greetings|good (?:morning|afternoon|evening|day|night)|how are you"
    r"|how['’]s it going|what['’]?s up|nice to meet you)\b|สวัสดี|หวัดดี|ดีครับ|ดีค่ะ|ดีจ้า|ฮัลโหล|เฮลโล|สบายดีไหม|สบายดีมั้ย|อรุณสวัสดิ์|ราตรีสวัสดิ์|ยินดีที่ได้รู้จัก)",
    re.IGNORECASE,
)
GREETING_ITEMS = 1
"""The most list items in the answer to a greeting. One line with a dash is no list."""


def refusal(reply: Reply) -> Verdict:
    """The answer declines although it should not. Measured: how many phrases of a refusal its beginning has.

    A rule cannot know whether declining was right: only the embedded world says so (`refusal_is_due`), so use it on harmless prompts.
    Source of the phrases: the openings by which arXiv 2307.15043 tells refusals, and their Thai counterparts.
    """
    beginning = reply.text.strip()[:REFUSAL_CHARACTERS]
    found = 0 if reply.refusal_is_due else sum(1 for pattern in (_REFUSAL, _THAI_REFUSAL) for _ in pattern.finditer(beginning))
    return Verdict("refusal", float(found), 0.0, "phrases of a refusal")


def repeats_prompt(reply: Reply) -> Verdict:
    """The answer says the question again. Measured: the share of the question's 5-grams that the answer has.

    Source of the threshold: the bound for near duplicates of arXiv 2107.06499, section 4.2. Only the last turn counts, and only if it has
    at least eight words. Where the task is to copy, correct or translate a text, the answer has to repeat it: leave the
    rule out there.
    """
    question, per_word = texts.units(reply.last_turn), texts.units_per_word(reply.last_turn)
    if len(question) < ECHO_WORDS * per_word:
        return Verdict("repeats_prompt", 0.0, ECHOED, "the question is too short")
    asked, answered = (_grams(found, ECHO_SHINGLE * per_word) for found in (question, texts.units(reply.text)))
    return Verdict("repeats_prompt", len(asked & answered) / len(asked), ECHOED, "5-grams of the question")


def greeting_list(reply: Reply) -> Verdict:
    """A greeting is answered by a list. Measured: how many list items the answer to a greeting has.

    Source: the practitioner's notes. A greeting is a short first message that begins as greetings do.
    """
    text = reply.last_turn
    is_greeting = bool(_GREETING.match(text)) and len(texts.units(text)) <= GREETING_WORDS * texts.units_per_word(text)
    items = sum(map(form.is_list_item, reply.text.splitlines())) if is_greeting else 0
    return Verdict("greeting_list", float(items), float(GREETING_ITEMS), "list items in the answer to a greeting")


def _grams(found: list[str], n: int) -> set[tuple[str, ...]]:
    return set(zip(*(found[i:] for i in range(n)), strict=False))
