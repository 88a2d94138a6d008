"""The forms of rows, in one registry. A form is a pure function from a row to what it holds: pairs of answers, or prompts.

`find_format` tells the form by the columns, where the config does not say it. The first form of FORMATS that fits is taken, so those that
ask for more come first. A row may hold several pairs, and parts that cannot be used: the function yields a BadRow for each of these,
or raises one if nothing in the row can be used. Plain data; imports no ML library.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from configs.data import Kind
from rewards.data.formats import answers, rated, tree, votes
from rewards.data.rows import Pair, Question, Row, is_tie, parse_pair, rater_of
from rewards.data.turns import as_messages, as_prompt, from_sharegpt, question_and_answer, split_answer
from rewards.data.unusable import BadRow

Found = Pair | Question | BadRow


@dataclass(frozen=True)
class Format:
    """One form of rows. fits: whether a row's columns are those of the form. columns: them in words. holds: what the rows give."""

    fits: Callable[[Row], bool]
    parse: Callable[[Row], Iterator[Found]]
    columns: str
    holds: Kind = "pairs"


def parse_preference(row: Row) -> Iterator[Found]:
    """TRL's preference format and HH's text: `prompt` (perhaps implied), `chosen`, `rejected`."""
    yield parse_pair(row)


def parse_question(row: Row) -> Iterator[Found]:
    """TRL's prompt-only format: `prompt`, as text or as messages."""
    if row.get("prompt") is None:
        raise BadRow("it has no prompt")
    yield Question(as_prompt(row["prompt"]))


def parse_messages(row: Row) -> Iterator[Found]:
    """TRL's language-modeling format: whole dialogues in `messages`. What comes before the last answer is the prompt."""
    yield Question(*question_and_answer(as_messages(row.get("messages"), "messages")))


def parse_sharegpt(row: Row) -> Iterator[Found]:
    """ShareGPT's form: `conversations` with `from` and `value`, perhaps with a `chosen` and a `rejected` turn, and what goes with these."""
    turns = from_sharegpt(row.get("conversations"))
    if row.get("chosen") is None and row.get("rejected") is None:
        yield Question(*question_and_answer(turns))
        return
    chosen, rejected = (split_answer(from_sharegpt([row.get(name)]))[1] for name in ("chosen", "rejected"))
    yield Pair(turns, chosen, rejected, is_tie(row), rater_of(row))


def _holds(*names: str) -> Callable[[Row], bool]:
    return lambda row: all(name in row for name in names)


FORMATS: dict[str, Format] = {
    "sharegpt": Format(_holds("conversations"), parse_sharegpt, "conversations", holds="prompts"),
    "preference": Format(_holds("chosen", "rejected"), parse_preference, "prompt, chosen, rejected"),
    "rated": Format(rated.fits, rated.parse, rated.COLUMNS),
    "tree": Format(tree.fits, tree.parse, tree.COLUMNS),
    "votes": Format(votes.fits, votes.parse, votes.COLUMNS),
    "messages": Format(_holds("messages"), parse_messages, "messages", holds="prompts"),
    "answers": Format(answers.fits, answers.parse, answers.COLUMNS, holds="prompts"),
    "prompts": Format(lambda row: "prompt" in row and not {"chosen", "rejected"} & set(row), parse_question, "prompt", holds="prompts"),
}
"""The names of `data.sources` -> the forms, in the order in which they are tried."""


def find_format(rows: Iterable[Row]) -> str | None:
    """The name of the form of some rows, which are the first ones of a source; None if no form fits any of them."""
    sample = list(rows)
    return next((name for name, format in FORMATS.items() if any(format.fits(row) for row in sample)), None)
