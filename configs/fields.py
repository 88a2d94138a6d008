"""What the settings in `schema.py` are made of: the base class of a group, types with limits, and the mark for run-time settings.

Must never import an ML library.
"""

import unicodedata
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from configs.user_functions import PATTERN

RUN_TIME = "run time"
"""Marks a setting that says how a run is computed, not what is computed. Such a setting is part of no stage's key, so it may change
between two starts of the same run. The results stay the same, up to the order in which floating-point numbers are added."""
UNSET_IN_NO_KEY = "unset in no key"
"""Marks a setting that is in no key while it is None. It was added later, and None does what was done before, so no stage is made again."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
"""A number from 0 to 1, both included."""
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
FunctionName = Annotated[str, Field(pattern=PATTERN)]
"""A user function, `file.py:function` or `module:function`, in place of a built-in one (`user_functions.py`)."""
RuleName = Literal[
    "foreign_word",
    "empty",
    "list_only",
    "repetition",
    "footer",
    "refusal",
    "wrong_language",
    "missing_end",
    "decomposed_sara_am",
    "cut_off",
    "repeats_prompt",
    "greeting_list",
    "near_duplicate",
]
"""The built-in rules (rewards/rules)."""
ExpectedLanguage = Literal["th", "en", "same", "any"]
"""In which language answers should be. "same": in that of the prompt."""
DEFAULT_RULES: list[RuleName | FunctionName] = list(get_args(RuleName))[:9]
"""The rules that are used where the config names none: those whose defects the embedded world has."""
MicroBatchSize = Annotated[PositiveInt | None, RUN_TIME]
"""The number of rows in one forward pass of one worker. None means all rows of the batch that belong to this worker."""

MAX_NAME_BYTES = 100
"""The longest name of a run. File systems allow 255 bytes, and Ray's actors and forks add to the name."""


class BadValue(ValueError):
    """A value is wrong, or several values do not fit together. `to_do` tells the user how to correct it."""

    def __init__(self, what: str, to_do: str):
        super().__init__(what)
        self.to_do = to_do


def check_name(name: str) -> str:
    """Return the name of a run if it is a valid one. It is also the name of the run's directory. Raises BadValue."""
    odd = [letter for letter in name if letter not in "-_." and unicodedata.category(letter)[0] not in "LMN"]
    if odd or not name or name[0] in "-." or len(name.encode()) > MAX_NAME_BYTES:
        what = f"{name!r} is not a valid run name" + (f": the character {odd[0]!r} is not allowed" if odd else "")
        raise BadValue(what, f"use letters, digits, -, _ and ., at most {MAX_NAME_BYTES} bytes, and do not start with - or .")
    return name


class Section(BaseModel):
    """A group of settings. Unknown keys are refused, and values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans_as_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Without this check, pydantic would read `true` as the number 1. YAML also turns `yes` and `on` into `true`."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("unexpected_boolean", "something other than true or false")
        return value
