"""Trees of ranked replies, as Open-Assistant exports them (arXiv 2304.07327), or of replies with votes, as on Reddit.

A row is one tree: `prompt` is the first message, and each message has `text`, `role` (prompter or assistant), `rank` (0 is best) and
`replies`. Wherever several ranked answers follow one message, each two of them are compared, as in InstructGPT (arXiv 2203.02155,
section 3.5). The prompt is the dialogue up to there. Deleted answers and answers without a rank are left out.

A reply may have votes (`score`) instead of a rank, and no role: then the one who is answered is the prompter, and turns alternate. Votes
are compared as in `votes.py`, so that answers of equal worth are not compared.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from rewards.data.formats.votes import worth
from rewards.data.rows import Pair, Row
from rewards.data.turns import Turn
from rewards.data.unusable import BadRow

COLUMNS = "prompt with text and replies, which have text, role, rank (or score) and replies"
ROLES = {"prompter": "user", "assistant": "assistant"}
MAX_DEPTH = 100
"""The longest dialogue that is followed. Open-Assistant's have at most a few turns."""
MISSING = {"rank": "rank", "score": "rank and no score"}
"""What an answer lacks that cannot be compared, by what the others are compared by."""


def fits(row: Row) -> bool:
    """Whether a row is a tree of messages."""
    return isinstance(row.get("prompt"), dict) and "replies" in row["prompt"]


def parse(row: Row) -> Iterator[Pair | BadRow]:
    """A pair for each two ranked answers to the same message."""
    if not isinstance(row.get("prompt"), dict):
        raise BadRow("prompt is not a message with replies")
    yield from _pairs(row["prompt"], [])


def _pairs(message: Any, before: list[Turn]) -> Iterator[Pair | BadRow]:
    role = _role(message, before)
    if role not in ROLES or not isinstance(message.get("text"), str):
        yield BadRow("a message of the tree lacks text or role")
        return
    if len(before) >= MAX_DEPTH:
        yield BadRow("a dialogue of the tree is too long")
        return
    dialogue = [*before, {"role": ROLES[role], "content": message["text"]}]
    replies = message.get("replies") or []
    if not isinstance(replies, list):
        yield BadRow("replies is not a list")
        return
    by = "rank" if any(isinstance(reply, dict) and "rank" in reply for reply in replies) else "score"
    ranked = []
    for reply in replies:
        reason = _unranked(reply, by) if role == "prompter" and len(replies) > 1 else "not compared"
        if reason is None:
            ranked.append(reply)
        elif reason != "not compared":
            yield BadRow(reason)
    placed = sorted(((_place(reply, by), reply["text"]) for reply in ranked), key=lambda one: one[0])
    for (first, better), (second, worse) in combinations(placed, 2):
        if by == "rank" or first != second:
            yield Pair(dialogue, better, worse, first == second)
    for reply in replies:
        yield from _pairs(reply, dialogue)


def _unranked(reply: Any, by: str) -> str | None:
    """The reason why an answer cannot be compared, or None."""
    if not isinstance(reply, dict) or not isinstance(reply.get("text"), str):
        return "a message of the tree lacks text or role"
    if reply.get("deleted"):
        return "an answer was deleted"
    rank = reply.get(by)
    return None if isinstance(rank, int) and not isinstance(rank, bool) else f"an answer has no {MISSING[by]}"


def _place(reply: dict[str, Any], by: str) -> int:
    """The place of an answer: the smaller, the better."""
    return reply["rank"] if by == "rank" else -worth(reply["score"], False)


def _role(message: Any, before: list[Turn]) -> str | None:
    """The role of a message, by itself or by its place in the dialogue. None where it is no message."""
    if not isinstance(message, dict):
        return None
    role = message.get("role", "assistant" if len(before) % 2 else "prompter")
    return role if isinstance(role, str) else None
