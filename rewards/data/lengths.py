"""Which rows are within the token limits `data.max_prompt_tokens` and `data.max_completion_tokens`.

Rows are measured in two places. The `filter` stage measures the original data, and the `label` stage measures labels that bring their
own texts. Samples of the run's policies are never left out, because `generation.max_new_tokens` is within the limit.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from configs.errors import UserError
from policies.token_counts import measure_completions, measure_prompts
from policies.tokenization import DialogueRefused
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
    """The lengths of the longest prompt and the longest completion that are used, in tokens of `tokenizer`.

    Prompts are remembered by their ids, because those of pairs come again by themselves.
    """

    tokenizer: Any
    max_prompt_tokens: int
    max_completion_tokens: int
    _reasons_of_prompts: dict[str, str | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def keep(self, rows: Sequence[Row]) -> tuple[list[Row], Counter[str]]:
        """The rows within the limits, and how many others there are, by reason."""
        judged = list(self._judged(rows))
        return [row for row, reason in judged if reason is None], Counter(reason for _, reason in judged if reason is not None)

    def keep_into(self, kept: RowFile[Row], rows: StoredRows[Row], tell: Callable[[Row, str], None]) -> Counter[str]:
        """Copy the rows within the limits to `kept`. Returns how many others there are, by reason; `tell` gets each of them."""
        left_out: Counter[str] = Counter()
        for line, (row, reason) in zip(rows.lines(), self._judged(rows), strict=True):
            if reason is None:
                kept.append_line(line)
            else:
                left_out[reason] += 1
                tell(row, reason)
        return left_out

    def excess(self, row: Comparison | PromptRecord | Demonstration) -> str | None:
        """The reason to leave a row out, or None. The end token of a completion counts, unless the completion is unfinished."""
        return self._reasons([row])[0]

    def _judged(self, rows: Sequence[Row]) -> Iterator[tuple[Row, str | None]]:
        """Each row, with the reason to leave it out, or None."""
        remaining = iter(rows)
        while batch := list(islice(remaining, BATCH)):
            yield from zip(batch, self._reasons(batch), strict=True)

    def _reasons(self, rows: Sequence[Comparison | PromptRecord | Demonstration]) -> list[str | None]:
        reasons = self._reasons_for_prompts(rows)
        completions = [_completions(row) for row in rows]
        for which in range(max(map(len, completions), default=0)):  # if the first one is too long, nobody looks at the second one
            numbers = [number for number, reason in enumerate(reasons) if reason is None and which < len(completions[number])]
            texts = [completions[number][which] for number in numbers]
            lengths = measure_completions(self.tokenizer, texts, self.max_completion_tokens)
            for number, length in zip(numbers, lengths, strict=True):
                if length > self.max_completion_tokens:
                    reasons[number] = LONG_COMPLETION
        return reasons

    def _reasons_for_prompts(self, rows: Sequence[Comparison | PromptRecord | Demonstration]) -> list[str | None]:
        known = self._reasons_of_prompts
        new = {row.prompt_id: row.prompt for row in rows if row.prompt_id not in known}
        lengths = measure_prompts(self.tokenizer, list(new.values()), self.max_prompt_tokens)
        known.update(zip(new, map(self._excess_of_prompt, lengths), strict=True))
        return [known[row.prompt_id] for row in rows]

    def _excess_of_prompt(self, length: int | DialogueRefused) -> str | None:
        if isinstance(length, DialogueRefused):
            return f"{REFUSED_PROMPT} ({length})"
        if not length:
            return EMPTY_PROMPT
        return LONG_PROMPT if length > self.max_prompt_tokens else None

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
