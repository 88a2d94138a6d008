"""What a row of a label file may say, checked strictly: "false" is not false, 7 is not "7", and no unknown key is ignored.

A row names two samples (`ByIds`) or gives whole texts (`ByTexts`). Files of all formats are turned into such rows first (label_files.py).
"""

import difflib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rewards.data.rows import BadRow

SHOWN_CHARACTERS = 60
"""How much of a wrong value a message shows."""


class LabelRow(BaseModel):
    """The keys that every row may have."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    tie: bool = False
    rater: str | None = None
    labeled_at: str | None = None
    round: Annotated[int, Field(ge=0)] | None = None
    confidence: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    shown_first: Literal["chosen", "rejected"] | None = None
    comment: Any = None
    """A note for people, which is not read. Any other unknown key is refused, because it may be a misspelled one."""


class ByIds(LabelRow):
    """A row that names two samples by their ids."""

    chosen_id: str
    rejected_id: str


class ByTexts(LabelRow):
    """A row that gives whole texts, in the forms that `rows.parse_row` knows and checks."""

    prompt: Any = None
    chosen: Any
    rejected: Any
    score_chosen: Any = None
    score_rejected: Any = None
    source: str | None = None


LEGAL_KEYS = tuple(ByIds.model_fields | ByTexts.model_fields)
WANTED = {
    "bool_type": "true or false",
    "string_type": "a string",
    "int_type": "a whole number",
    "float_type": "a number",
    "greater_than_equal": "0 or more",
    "less_than_equal": "1 or less",
    "literal_error": '"chosen" or "rejected"',
}
"""pydantic's kinds of error -> what is expected, in the words of JSON."""


def check(row: dict[str, Any]) -> ByIds | ByTexts:
    """The row in the form that it has. Raises BadRow with what is wrong."""
    for key in row:
        if key not in LEGAL_KEYS:
            near = difflib.get_close_matches(key.casefold(), LEGAL_KEYS, n=1, cutoff=0.7)
            help = f"did you mean {near[0]!r}?" if near else f"the legal ones are {', '.join(LEGAL_KEYS)}"
            raise BadRow(f"unknown key {shown(key)}, {help}")
    ids, texts = (sorted({f"chosen{end}", f"rejected{end}"} & set(row)) for end in ("_id", ""))
    if not ids and not texts:
        raise BadRow("it names no completions: give chosen_id and rejected_id, or prompt, chosen and rejected")
    if ids and texts:
        raise BadRow(f"it has both ids and texts ({', '.join(ids + texts)}): give one of them")
    try:
        return (ByIds if ids else ByTexts).model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        name, kind = str(first["loc"][0]), first["type"]
        if kind == "missing":
            raise BadRow(f"{name} is missing") from None
        if kind == "extra_forbidden":
            raise BadRow(f"{name} does not belong beside ids") from None
        raise BadRow(f"{name} must be {WANTED.get(kind, first['msg'])}, not {shown(first['input'])}") from None


def shown(value: Any) -> str:
    """A value as a message shows it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
