"""Questions whose answers have votes, as on Stack Exchange: `title`, `body_html`, `accepted`, and `answers` with `score` and `body_html`.

Answers are compared by the score of Askell et al. (arXiv 2112.00861): the rounded logarithm of the votes, and one more for the
accepted answer. Answers of equal score are not compared. Dates are not read: the earlier answer has more votes in most pairs, and a model
should not learn that.
"""

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from rewards.data.formats.html_text import html_to_text
from rewards.data.rows import Pair, Row
from rewards.data.unusable import BadRow

COLUMNS = "title, body_html, answers with score and body_html"


def fits(row: Row) -> bool:
    """Whether a row is a question with votes."""
    answers = row.get("answers")
    return (
        isinstance(answers, list) and ("title" in row or "body_html" in row) and all(isinstance(a, dict) and "score" in a for a in answers)
    )


def parse(row: Row) -> Iterator[Pair | BadRow]:
    """A pair for each two answers of different score."""
    answers = row.get("answers")
    if not isinstance(answers, list):
        raise BadRow("answers is not a list")
    prompt = "\n\n".join(part for part in (_text(row, "title"), _text(row, "body_html")) if part)
    scored = []
    for answer in answers:
        if not isinstance(answer, dict) or not isinstance(answer.get("score"), int) or isinstance(answer["score"], bool):
            yield BadRow("an answer has no votes")
            continue
        accepted = row.get("accepted") is not None and answer.get("id") == row["accepted"]
        scored.append((worth(answer["score"], accepted), answer))
    if len(scored) < 2:
        raise BadRow("a question with fewer than two answers")
    pairs = [(a, b) if a[0] > b[0] else (b, a) for a, b in combinations(scored, 2) if a[0] != b[0]]
    if not pairs:
        raise BadRow("the answers to a question have equal votes")
    texts = {id(answer): _text(answer, "body_html") for _, answer in scored}
    for (_, better), (_, worse) in pairs:
        yield Pair(prompt, texts[id(better)], texts[id(worse)])


def worth(votes: int, is_accepted: bool) -> int:
    """The score of an answer: round(log2(1 + votes)), plus 1 if the asker accepted it; -1 for an answer with negative votes."""
    return -1 if votes < 0 else round(math.log2(1 + votes)) + is_accepted


def _text(row: Any, name: str) -> str:
    """The text of a part that is HTML, or of a title, which is not."""
    value = row.get(name) or ""
    if not isinstance(value, str):
        raise BadRow(f"{name} is not text")
    return html_to_text(value) if name.endswith("_html") else value.strip()
