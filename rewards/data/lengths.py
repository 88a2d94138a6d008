"""Which rows are within the token limits `data.max_prompt_tokens` and `data.max_completion_tokens`.

Rows are measured in two places. The `filter` stage measures the original data, and the `label` stage measures labels that bring their
own texts. Samples of the run's policies are never left out, because `generation.max_new_tokens` is within the limit.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from configs.errors import UserError
from policies.tokenization import DialogueRefused, encode_completions, encode_prompts
from rewards.comparisons import Comparison, Demonstration, PromptRecord
from rewards.data.row_files import RowFile, StoredRows

Row = TypeVar("Row", Comparison, PromptRecord, Demonstration)
LONG_PROMPT, LONG_COMPLETION, EMPTY_PROMPT = "prompt too long", "completion too long", "prompt without tokens"
REFUSED_PROMPT = "prompt refused by the chat template"
SETTINGS = {LONG_PROMPT: "data.max_prompt_tokens", LONG_COMPLETION: "data.max_completion_tokens"}
"""Reasons for leaving a row out -> the setting that would let it in. No setting helps with the two other reasons."""
BATCH = 256
"""How many rows are encoded at once."""


@dataclass(frozen=True)
class TokenLimits:
    """The lengths of the longest prompt and the longest completion that are used, in tokens of `tokenizer`."""

    tokenizer: Any
    max_prompt_tokens: int
    max_completion_tokens: int

    def keep(self, rows: Sequence[Row]) -> tuple[list[Row], Counter[str]]:
        """The rows within the limits, and how many others there are, by reason."""
        judged = list(self._judged(rows))
        return [row for row, reason in judged if reason is None], Counter(reason for _, reason in judged if reason is not None)

    def keep_into(self, kept: RowFile[Row], rows: StoredRows[Row], tell: Callable[[Row, str], None]) -> Counter[str]:
        """Copy the rows within the limits to `kept`. Returns how many others there are, by reason; `tell` gets each of them."""
        left_out: Counter[str] = Counter()
        for number, (row, reason) in enumerate(self._judged(rows)):
            if reason is None:
                kept.append_line(rows.line(number))
            else:
                left_out[reason] += 1
                tell(row, reason)
        return left_out

    def excess(self, row: Comparison | PromptRecord | Demonstration) -> str | None:
        """The reason to leave a row out, or None. The end token of a completion counts, unless the completion is unfinished."""
        return self._reasons([row])[0]

    def _judged(self, rows: Sequence[Row]) -> Iterator[tuple[Row, str | None]]:
        """Each row, with the reason to leave it out, or None."""
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            yield from zip(batch, self._reasons(batch), strict=True)

    def _reasons(self, rows: Sequence[Comparison | PromptRecord | Demonstration]) -> list[str | None]:
        reasons = [self._excess_of_prompt(found) for found in encode_prompts(self.tokenizer, [row.prompt for row in rows])]
        numbers, completions = [], []
        for number, row in enumerate(rows):
            if reasons[number] is None:
                found = _completions(row)
                numbers += [number] * len(found)
                completions += found
        for number, ids in zip(numbers, encode_completions(self.tokenizer, completions), strict=True):
            if len(ids) > self.max_completion_tokens:
                reasons[number] = LONG_COMPLETION
        return reasons

    def _excess_of_prompt(self, found: list[int] | DialogueRefused) -> str | None:
        if isinstance(found, DialogueRefused):
            return f"{REFUSED_PROMPT} ({found})"
        if not found:
            return EMPTY_PROMPT
        return LONG_PROMPT if len(found) > self.max_prompt_tokens else None

    def nothing_left(self, what: str, where: str, left_out: Counter[str]) -> UserError:
        """The error to raise if no row is within the limits."""
        counts = ", ".join(f"{count} x {reason}" for reason, count in sorted(left_out.items()))
        values = f"data.max_prompt_tokens={self.max_prompt_tokens}, data.max_completion_tokens={self.max_completion_tokens}"
        raise_these = " and ".join(SETTINGS[reason] for reason in sorted(left_out) if reason in SETTINGS)
        to_do = f"raise {raise_these}" if raise_these else "give prompts that the base's tokenizer and chat template can read"
        return UserError(f"none of the {left_out.total()} {what} is short enough: {counts}", f"{where} ({values})", to_do)


def _completions(row: Comparison | PromptRecord | Demonstration) -> list[tuple[str, bool]]:
    """The texts that are measured beside the prompt, and whether each is finished."""
    if isinstance(row, PromptRecord):
        return []
    if isinstance(row, Demonstration):
        return [(row.answer, True)]
    return [(row.chosen, row.chosen_finished), (row.rejected, row.rejected_finished)]
