"""An instruction with two answers, and what one or several raters say: 1 or 2 for the better answer, 0 for a tie.

PandaLM's test set (arXiv 2306.05087) has `instruction`, `input`, `response1`, `response2` and `annotator1` to `annotator3`. LLMBar (arXiv
2310.07641) has `input`, `output_1`, `output_2` and `label`. Each rater gives a comparison of its own, so disagreement stays visible.
"""

import re
from collections.abc import Iterator
from typing import Any

from rewards.data.rows import Pair, Row
from rewards.data.unusable import BadRow

COLUMNS = "instruction or input, response1 and response2 (or output_1 and output_2), annotator1 ... (or label)"
ANSWERS = (("response1", "response2"), ("output_1", "output_2"), ("response_1", "response_2"), ("answer_1", "answer_2"))
RATER = re.compile(r"annotator_?\d+|rater_?\d+|label")
TIE = 0


def fits(row: Row) -> bool:
    """Whether a row has two answers and somebody's verdict."""
    return _answers(row) is not None and any(RATER.fullmatch(name) for name in row)


def parse(row: Row) -> Iterator[Pair | BadRow]:
    """A pair for each rater. A verdict that is none is left out by itself."""
    names = _answers(row)
    if names is None:
        raise BadRow("it has no two answers")
    texts = [row[name] for name in names]
    for name, text in zip(names, texts, strict=True):
        if not isinstance(text, str):
            raise BadRow(f"{name} is not text")
        if not text.strip():
            raise BadRow(f"{name} is empty")
    prompt = _prompt(row)
    raters = [name for name in row if RATER.fullmatch(name)]
    if not raters:
        raise BadRow("nobody rated it")
    for rater in raters:
        verdict = _verdict(row[rater])
        if verdict is None:
            yield BadRow(f"{rater} is not 0, 1 or 2")
        else:
            chosen, rejected = texts if verdict != 2 else reversed(texts)
            yield Pair(prompt, chosen, rejected, verdict == TIE, "" if rater == "label" else rater)


def _answers(row: Row) -> tuple[str, str] | None:
    return next((pair for pair in ANSWERS if pair[0] in row and pair[1] in row), None)


def _prompt(row: Row) -> str:
    """Instruction and input, with a blank line between them; either may be missing."""
    parts = [row.get(name) or "" for name in ("instruction", "input")]
    if not all(isinstance(part, str) for part in parts):
        raise BadRow("instruction or input is not text")
    return "\n\n".join(part for part in parts if part.strip())


def _verdict(value: Any) -> int | None:
    """0, 1 or 2, also as text, as CSV files have it."""
    if isinstance(value, str) and value.strip() in ("0", "1", "2"):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value in (0, 1, 2) else None
