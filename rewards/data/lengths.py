"""Which rows are within the token limits `data.max_prompt_tokens` and `data.max_completion_tokens`.

Rows are measured in two places. The `filter` stage measures the original data, and the `label` stage measures labels that bring their
own texts. Samples of the run's policies are never left out, because `generation.max_new_tokens` is within the limit.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from configs.errors import UserError
from policies.tokenization import DialogueRefused, encode_completion, encode_prompt
from rewards.comparisons import Comparison, Demonstration, PromptRecord
from rewards.data.row_files import RowFile

Row = TypeVar("Row", Comparison, PromptRecord, Demonstration)
LONG_PROMPT, LONG_COMPLETION, EMPTY_PROMPT = "prompt too long", "completion too long", "prompt without tokens"
REFUSED_PROMPT = "prompt refused by the chat template"
SETTINGS = {LONG_PROMPT: "data.max_prompt_tokens", LONG_COMPLETION: "data.max_completion_tokens"}
"""Reasons for leaving a row out -> the setting that would let it in. No setting helps with the two other reasons."""


@dataclass(frozen=True)
class TokenLimits:
    """The lengths of the longest prompt and the longest completion that are used, in tokens of `tokenizer`."""

    tokenizer: Any
    max_prompt_tokens: int
    max_completion_tokens: int

    def keep(self, rows: Sequence[Row]) -> tuple[list[Row], Counter[str]]:
        """The rows within the limits, and how many others there are, by reason."""
        reasons = [self.excess(row) for row in rows]
        return [row for row, reason in zip(rows, reasons, strict=True) if reason is None], Counter(filter(None, reasons))

    def keep_into(self, kept: RowFile[Row], rows: Iterable[Row], tell: Callable[[Row, str], None]) -> Counter[str]:
        """Add the rows within the limits to `kept`, one by one. Returns how many others there are, by reason; `tell` gets each of them."""
        left_out: Counter[str] = Counter()
        for row in rows:
            reason = self.excess(row)
            if reason is None:
                kept.append(row)
            else:
                left_out[reason] += 1
                tell(row, reason)
        return left_out

    def excess(self, row: Comparison | PromptRecord | Demonstration) -> str | None:
        """The reason to leave a row out, or None. The end token of a completion counts, unless the completion is unfinished."""
        try:
            prompt = encode_prompt(self.tokenizer, row.prompt)
        except DialogueRefused as error:
            return f"{REFUSED_PROMPT} ({error})"
        if not prompt:
            return EMPTY_PROMPT
        if len(prompt) > self.max_prompt_tokens:
            return LONG_PROMPT
        if isinstance(row, PromptRecord):
            return None
        completions: tuple[tuple[str, bool], ...]
        if isinstance(row, Demonstration):
            completions = ((row.answer, True),)
        else:
            completions = ((row.chosen, row.chosen_finished), (row.rejected, row.rejected_finished))
        if any(len(encode_completion(self.tokenizer, text, finished)) > self.max_completion_tokens for text, finished in completions):
            return LONG_COMPLETION
        return None

    def nothing_left(self, what: str, where: str, left_out: Counter[str]) -> UserError:
        """The error to raise if no row is within the limits."""
        counts = ", ".join(f"{count} x {reason}" for reason, count in sorted(left_out.items()))
        values = f"data.max_prompt_tokens={self.max_prompt_tokens}, data.max_completion_tokens={self.max_completion_tokens}"
        raise_these = " and ".join(SETTINGS[reason] for reason in sorted(left_out) if reason in SETTINGS)
        to_do = f"raise {raise_these}" if raise_these else "give prompts that the base's tokenizer and chat template can read"
        return UserError(f"none of the {left_out.total()} {what} is short enough: {counts}", f"{where} ({values})", to_do)
