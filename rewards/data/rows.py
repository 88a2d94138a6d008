"""Rows of preference data in TRL's forms, and what every form of rows gives: pairs of answers, or prompts. Imports no ML library.

TRL's preference formats have the prompt given or implied, as plain text or as messages. HH's dialogue text is one of them. The other forms
are in `formats`.
"""

from typing import Any, NamedTuple

from rewards.comparisons import Comparison, Prompt
from rewards.data.splits import content_id
from rewards.data.turns import HH_TURN, Turn, as_messages, as_prompt, from_hh, said_in, split_answer
from rewards.data.unusable import BadRow

Row = dict[str, Any]


class Pair(NamedTuple):
    """Two answers to a prompt, and which is better. rater: who said so, where the row tells."""

    prompt: Prompt
    chosen: str
    rejected: str
    tie: bool = False
    rater: str = ""


class Question(NamedTuple):
    """A prompt without answers that could be compared. answer: the only one, where there is one; None where there is none."""

    prompt: Prompt
    answer: str | None = None


def parse_row(row: Row) -> Comparison:
    """One row of TRL's preference format as a Comparison. Raises BadRow if it cannot be used.

    Neither completion is better if `tie` is true, or if there is no `tie` and `score_chosen` equals `score_rejected`.
    """
    pair = parse_pair(row)
    check(pair)
    source = str(row.get("source") or "original")
    return Comparison(content_id(pair.prompt), pair.prompt, pair.chosen, pair.rejected, source=source, tie=pair.tie, rater=pair.rater)


def parse_pair(row: Row) -> Pair:
    """What `parse_row` reads, before `check`."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(value, str | list):
            raise BadRow(f"{name} is not text or messages")
    prompt: Prompt
    if isinstance(chosen, list) or isinstance(rejected, list):
        prompt, texts = _split_dialogues(*(_with_prompt(row.get("prompt"), answer) for answer in (chosen, rejected)))
    elif row.get("prompt") is not None:
        prompt, texts = as_prompt(row["prompt"]), (chosen, rejected)  # type: ignore[assignment]
    else:
        prompt, texts = _implicit_text(chosen, rejected)  # type: ignore[arg-type]
    return Pair(prompt, *texts, tie=is_tie(row), rater=rater_of(row))


def parse_prompt(row: Row) -> Prompt:
    """The prompt of a row without completions: text or messages. Raises BadRow if it cannot be used."""
    if row.get("prompt") is None:
        raise BadRow("it has no prompt")
    prompt = as_prompt(row["prompt"])
    check(Question(prompt))
    return prompt


def check(found: Pair | Question) -> None:
    """Raises BadRow if something is empty, or if there is nothing to compare."""
    if not said_in(found.prompt).strip():
        raise BadRow("the prompt is empty")
    if isinstance(found, Question):
        return
    for name, text in (("chosen", found.chosen), ("rejected", found.rejected)):
        if not text.strip():
            raise BadRow(f"{name} is empty")
    if found.chosen == found.rejected:
        raise BadRow("chosen and rejected are the same")


def rater_of(row: Row) -> str:
    """Who said which answer is better, where the row tells."""
    rater = row.get("rater")
    return str(rater) if isinstance(rater, str | int) else ""


def is_tie(row: Row) -> bool:
    """Whether neither answer of a row is better. Raises BadRow for a `tie` or a score that is none."""
    tie, scores = row.get("tie"), [row.get("score_chosen"), row.get("score_rejected")]
    if tie is not None and not isinstance(tie, bool):
        raise BadRow("tie is not true or false")
    if any(score is not None and (isinstance(score, bool) or not isinstance(score, int | float)) for score in scores):
        raise BadRow("score_chosen or score_rejected is not a number")
    return tie if tie is not None else scores[0] is not None and scores[0] == scores[1]


def _with_prompt(prompt: Any, answer: Any) -> list[Turn]:
    """The whole dialogue of one side, if its answer or its prompt is messages. Some data sets repeat the prompt in each answer."""
    if isinstance(prompt, str):
        turns = [{"role": "user", "content": prompt}] if prompt.strip() else []
    else:
        turns = [] if prompt is None else as_messages(prompt, "prompt")
    said = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else as_messages(answer, "chosen or rejected")
    told = next((number for number, turn in enumerate(said) if turn["role"] != "system"), 0)  # messages of the system, which come first
    return said if turns in (said[: len(turns)], said[told : told + len(turns)]) else turns + said


def _split_dialogues(first: list[Turn], second: list[Turn]) -> tuple[Prompt, tuple[str, str]]:
    """Prompt and answers of two dialogues. They share all messages but the last, which is the answer."""
    (prompt, chosen), (other, rejected) = split_answer(first), split_answer(second)
    if prompt != other:
        raise BadRow("the dialogues differ before the last answer")
    return prompt, (chosen, rejected)


def _implicit_text(chosen: str, rejected: str) -> tuple[Prompt, tuple[str, str]]:
    """Prompt and answers of two texts without a prompt of their own: what they begin with in common, up to a space, is the prompt."""
    if HH_TURN.search(chosen) and HH_TURN.search(rejected):
        return _split_dialogues(from_hh(chosen), from_hh(rejected))
    length = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected)))
    length = chosen.rfind(" ", 0, length) + 1 or length
    return chosen[:length], (chosen[length:], rejected[length:])
