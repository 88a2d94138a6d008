"""An instruction with one answer: GSM8K's `question` and `answer`, CoNaLa's `intent` and `snippet`, and the forms of Alpaca, Dolly and TRL.

One answer cannot be compared with anything, so such rows are prompts: PPO and sampling ask them, and the labeler or a function of yours
judges what the policy answers. With `kind: answers`, SFT is trained on the answers too.
"""

from collections.abc import Iterator
from typing import NamedTuple

from rewards.data.rows import Question, Row
from rewards.data.turns import as_messages, as_prompt, split_answer
from rewards.data.unusable import BadRow


class Form(NamedTuple):
    """Columns of the instruction, of the answer, and of what may be added to the instruction or take its place. None is no column; the
    empty name would be one, that of the row numbers which pandas writes into CSV files."""

    instruction: str
    answer: str
    addition: str | None = None
    better: str | None = None


FORMS = (
    Form("question", "answer"),
    Form("intent", "snippet", better="rewritten_intent"),
    Form("instruction", "output", addition="input"),
    Form("instruction", "response", addition="context"),
    Form("prompt", "completion"),
)
COLUMNS = ", or ".join(f"{form.instruction} and {form.answer}" for form in FORMS)


def fits(row: Row) -> bool:
    """Whether a row has an instruction and an answer, and no second answer."""
    return _form(row) is not None


def parse(row: Row) -> Iterator[Question]:
    """The instruction. CoNaLa's rewritten intent is preferred, because it names the variables that the snippet uses."""
    form = _form(row)
    if form is None:
        raise BadRow("it has no instruction and answer")
    instruction = (row.get(form.better) if form.better else None) or row[form.instruction]
    addition = row.get(form.addition) if form.addition else None
    given = row[form.answer]
    answer = given if isinstance(given, str) else None
    if isinstance(given, list):  # TRL's conversational form has a message
        answer = split_answer(as_messages(given, form.answer))[1]
    if row.get("label") is False:  # TRL's unpaired preferences: nobody should learn this answer
        answer = None
    if addition is None or addition == "":
        yield Question(as_prompt(instruction, form.instruction), answer)
    elif isinstance(instruction, str) and isinstance(addition, str):
        yield Question(f"{instruction}\n\n{addition}", answer)
    else:
        raise BadRow(f"{form.instruction} or {form.addition} is not text")


def _form(row: Row) -> Form | None:
    return next((form for form in FORMS if form.instruction in row and form.answer in row), None)
