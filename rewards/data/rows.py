"""Rows of preference data in the forms that people have them, checked one by one, as `Comparison` records.

These are TRL's preference formats (with the prompt given or implied, plain text or messages) and HH's dialogue text. Plain data; imports no
ML library.
"""

import re
from typing import Any

from configs.errors import UserError
from rewards.comparisons import Comparison, Prompt
from rewards.data.splits import content_id

ROLES = ("system", "user", "assistant", "tool")
"""The roles that chat templates know. With any other role it is unclear who speaks."""
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")

Rows = list[tuple[str, dict[str, Any]]]
"""Each row, with its place in words, for example "pairs.jsonl, line 3"."""


class BadRow(Exception):
    """A row that cannot be used. The text is the reason, under which such rows are counted."""


def parse_row(row: dict[str, Any]) -> Comparison:
    """One row as a Comparison. Raises BadRow if it cannot be used.

    Neither completion is better if `tie` is true, or if there is no `tie` and `score_chosen` equals `score_rejected`.
    """
    chosen, rejected = row.get("chosen"), row.get("rejected")
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(value, str | list):
            raise BadRow(f"{name} is not text or messages")
    prompt: Prompt
    if isinstance(chosen, list) or isinstance(rejected, list):
        prompt, texts = _split_dialogues(*(_with_prompt(row.get("prompt"), answer) for answer in (chosen, rejected)))
    elif row.get("prompt") is not None:
        given = row["prompt"]
        prompt, texts = given if isinstance(given, str) else _messages(given, "prompt"), (chosen, rejected)  # type: ignore[assignment]
    else:
        prompt, texts = _implicit_text(chosen, rejected)  # type: ignore[arg-type]
    _refuse_empty(prompt)
    for name, text in zip(("chosen", "rejected"), texts, strict=True):
        if not text.strip():
            raise BadRow(f"{name} is empty")
    if texts[0] == texts[1]:
        raise BadRow("chosen and rejected are the same")
    source, rater = (str(row.get(name) or "") for name in ("source", "rater"))
    return Comparison(content_id(prompt), prompt, *texts, source=source or "original", tie=_is_tie(row), rater=rater)


def parse_prompt(row: dict[str, Any]) -> Prompt:
    """The prompt of a row without completions: text or messages. Raises BadRow if it cannot be used."""
    given = row.get("prompt")
    if given is None:
        raise BadRow("it has no prompt")
    prompt: Prompt = given if isinstance(given, str) else _messages(given, "prompt")
    _refuse_empty(prompt)
    return prompt


def parse_dialogue(text: str) -> list[dict[str, str]]:
    """HH's "\\n\\nHuman: ...\\n\\nAssistant: ..." as messages. Raises BadRow if there is text before the first turn."""
    before, *parts = _HH_TURN.split("\n\n" + text.lstrip())
    if before.strip():
        raise BadRow("there is text before the first turn of a dialogue")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[name], "content": said.strip()} for name, said in zip(parts[::2], parts[1::2], strict=True)]


def _refuse_empty(prompt: Prompt) -> None:
    if not (prompt if isinstance(prompt, str) else "".join(m["content"] for m in prompt)).strip():
        raise BadRow("the prompt is empty")


def _is_tie(row: dict[str, Any]) -> bool:
    tie, scores = row.get("tie"), [row.get("score_chosen"), row.get("score_rejected")]
    if tie is not None and not isinstance(tie, bool):
        raise BadRow("tie is not true or false")
    if any(score is not None and (isinstance(score, bool) or not isinstance(score, int | float)) for score in scores):
        raise BadRow("score_chosen or score_rejected is not a number")
    return tie if tie is not None else scores[0] is not None and scores[0] == scores[1]


def _with_prompt(prompt: Any, answer: Any) -> list[dict[str, str]]:
    """The whole dialogue of one side, if its answer or its prompt is messages. Some data sets repeat the prompt in each answer."""
    if isinstance(prompt, str):
        turns = [{"role": "user", "content": prompt}] if prompt.strip() else []
    else:
        turns = [] if prompt is None else _messages(prompt, "prompt")
    said = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else _messages(answer, "chosen or rejected")
    return said if said[: len(turns)] == turns else turns + said


def _split_dialogues(first: list[dict[str, str]], second: list[dict[str, str]]) -> tuple[Prompt, tuple[str, str]]:
    """Prompt and answers of two dialogues. They share all messages but the last, which is the answer."""
    if not first or not second or first[-1]["role"] != "assistant" or second[-1]["role"] != "assistant":
        raise BadRow("a dialogue does not end with the assistant")
    if first[:-1] != second[:-1]:
        raise BadRow("the dialogues differ before the last answer")
    return first[:-1], (first[-1]["content"], second[-1]["content"])


def _implicit_text(chosen: str, rejected: str) -> tuple[Prompt, tuple[str, str]]:
    """Prompt and answers of two texts without a prompt of their own: what they begin with in common, up to a space, is the prompt."""
    if _HH_TURN.search(chosen) and _HH_TURN.search(rejected):
        return _split_dialogues(parse_dialogue(chosen), parse_dialogue(rejected))
    length = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected)))
    length = chosen.rfind(" ", 0, length) + 1 or length
    return chosen[:length], (chosen[length:], rejected[length:])


def _messages(value: Any, name: str) -> list[dict[str, str]]:
    if not isinstance(value, list):
        raise BadRow(f"{name} is not text or messages")
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or "role" not in message:
            raise BadRow("a message lacks role or text content")
        if message["role"] not in ROLES:
            raise BadRow(f"a message's role is none of {', '.join(ROLES)}")
        if message.get("tool_calls"):
            raise BadRow("a message calls tools")
    return [{"role": m["role"], "content": m["content"]} for m in value]


def check_columns(rows: Rows, where: str) -> None:
    """Raises UserError if there is no row, or if no row has one of the columns that are needed."""
    if not rows:
        raise UserError("the data set is empty", where, "give data with prompt, chosen and rejected")
    columns = {name for _, row in rows for name in row}
    if missing := {"chosen", "rejected"} - columns:
        raise UserError(
            f"the data lacks the column{'s' * (len(missing) > 1)} {', '.join(sorted(missing))} (it has {', '.join(sorted(columns))})",
            where,
            "rename your columns to TRL's preference format: prompt, chosen, rejected",
        )


def numbered(rows: list[dict[str, Any]], where: str) -> Rows:
    """Rows that have no lines, each with its number in `where`."""
    return [(f"{where}, row {number}", row) for number, row in enumerate(rows, 1)]


def first_cause(error: Exception) -> str:
    """One line about the exception that an exception goes back to: libraries wrap errors in errors of their own."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
