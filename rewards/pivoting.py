"""Answers by way of another language (`respond: pivot`): what the policy reads and writes, and what people read instead.

    the user's prompt  --translate-->  the policy's prompt        PromptRecord.prompt, and the user's in PromptRecord.pivot
    the policy's answer --translate--> the answer that is shown   Sample.completion, and the shown one in Sample.pivot

In every record `prompt` and `completion` are what the policy reads and writes: KL, rewards and training see nothing else. `pivot` has what
people see (shown.py). A record without `pivot` is answered directly. Prompts keep the id and the side (training or held-out) of what the
user wrote.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from configs import user_functions
from configs.errors import UserError
from configs.pivot import PivotConfig, script_of
from policies.checkpoints import Checkpoints
from policies.reporting import Report
from rewards.comparisons import Comparison, Demonstration, Prompt, PromptRecord, Sample
from rewards.rules import texts
from rewards.rules.reply import ExpectedLanguage, Reply
from rewards.shown import as_rules_call
from rewards.translation import Translator, find_translator

SHARD = 64
"""Texts that one worker translates before it takes the next ones and saves what it has."""
NO_TRANSLATION = "not translated"
_TURN = re.compile(r"((?:^|\n)\s*(?:Human|Assistant):\s*)")
"""What begins a turn in HH's text form."""

Translations = Mapping[str, str | None]
"""A text -> its translation; None where it has none."""


@dataclass(frozen=True)
class Pivoting:
    """Decides which prompts are answered in the pivot language, and translates. All workers share the work."""

    config: PivotConfig
    checkpoints: Checkpoints
    report: Report

    # -- scope --------------------------------------------------------------------------------------------------------

    def covers(self, prompt: Prompt, source: str) -> bool:
        """Whether a prompt is answered in the pivot language (`pivot.scope`)."""
        return self._is_in_scope(prompt, source)

    @cached_property
    def _is_in_scope(self) -> Callable[[Prompt, str], bool]:
        config = self.config
        if user_functions.is_function(config.scope):
            function = user_functions.load(config.scope)
            return lambda prompt, source: bool(function(prompt, source))
        if config.scope == "all":
            return lambda prompt, source: True
        if config.scope == "language":
            return lambda prompt, source: self._is_users(_question(prompt))
        pattern = re.compile(config.pattern) if config.pattern else None

        def follows_rule(prompt: Prompt, source: str) -> bool:
            question = _question(prompt)
            return self._is_users(question) and (source in config.sources or bool(pattern and pattern.search(question)))

        return follows_rule

    def expected_language(self, otherwise: ExpectedLanguage) -> ExpectedLanguage | Callable[[Reply], ExpectedLanguage]:
        """What rules are told of the policy's own answers. Only where it reads prompts of the users' language does that need to be said."""
        if self.config.prompt == "translate" or otherwise == "any":
            return otherwise
        language = as_rules_call(self.config.language)
        return lambda reply: language if self.covers(reply.prompt, reply.source) else otherwise

    def _is_users(self, text: str) -> bool:
        """Whether a text is in the users' language, by its letters; for two languages with the same letters, any text with letters is."""
        script = texts.main_script(texts.prose(text)) or texts.main_script(text)
        return script is not None and (script == script_of(self.config.from_language) or not self._has_own_letters)

    @property
    def _has_own_letters(self) -> bool:
        """Whether letters tell the users' language from the pivot language."""
        return script_of(self.config.from_language) != script_of(self.config.language)

    # -- prompts ------------------------------------------------------------------------------------------------------

    def ask(self, records: Sequence[PromptRecord], name: str = "prompts") -> list[PromptRecord]:
        """The prompts as the policy reads them. `name` names this work in the checkpoints."""
        return self.with_prompts(records, self.translate(texts_of(self, records), f"{name}-in-pivot"))

    def with_prompts(self, records: Sequence[PromptRecord], found: Translations) -> list[PromptRecord]:
        """The prompts as the policy reads them. One that cannot be translated is answered directly."""
        asked = []
        for record in records:
            prompt = self.prompt_in_pivot(record.prompt, found) if self.covers(record.prompt, record.source) else None
            asked.append(record if prompt is None else replace(record, prompt=prompt, pivot=self.note(record.prompt)))
        return asked

    def to_translate(self, prompt: Prompt) -> list[str]:
        """The turns of a prompt that the policy reads in translation."""
        return [] if self.config.prompt == "keep" else [turn for turn in _turns(prompt) if self._is_users(turn)]

    def prompt_in_pivot(self, prompt: Prompt, found: Translations) -> Prompt | None:
        """A prompt as the policy reads it; None where a turn has no translation."""
        new = {turn: found.get(turn) for turn in self.to_translate(prompt)}
        if any(text is None for text in new.values()):
            return None
        if isinstance(prompt, str):
            return "".join(new.get(part) or part for part in _TURN.split(prompt))
        return [message | {"content": new.get(message["content"]) or message["content"]} for message in prompt]

    def answers_to_translate(self, row: Comparison | PromptRecord | Demonstration) -> list[str]:
        """The answers of a row of data that are not in the pivot language already."""
        answers = [getattr(row, name) for name in ("chosen", "rejected", "answer") if hasattr(row, name)]
        return [answer for answer in answers if self._is_users(answer)]

    def text_in_pivot(self, text: str, found: Translations) -> str | None:
        """An answer of the data in the pivot language; None where it has no translation. One that is in it already stays as it is."""
        return found.get(text) if self._is_users(text) else text

    def note(self, prompt: Prompt) -> dict[str, Any]:
        """What the record of a prompt has to say beside what the policy reads."""
        by = self.translator.name if self.to_translate(prompt) else ""
        return {"from": self.config.from_language, "to": self.config.language, "prompt": prompt, "prompt_by": by}

    # -- answers ------------------------------------------------------------------------------------------------------

    def show(self, samples: Sequence[Sample], name: str) -> list[Sample]:
        """The samples with the answers that people see. One that is in the users' language already, or that nothing translates, is shown
        as it is; then `completion_by` is empty."""
        asked = [sample.completion for sample in samples if sample.pivot and self._goes_back(sample.completion)]
        found = self.translate(asked, f"{name}-shown", back=True)
        shown = []
        for sample in samples:
            if sample.pivot:
                text = found.get(sample.completion)
                by = "" if text is None else self.translator.name
                sample = replace(
                    sample, pivot=sample.pivot | {"completion": sample.completion if text is None else text, "completion_by": by}
                )
            shown.append(sample)
        return shown

    def _goes_back(self, text: str) -> bool:
        return texts.main_script(text) is not None and not (self._has_own_letters and self._is_users(text))

    # -- translating --------------------------------------------------------------------------------------------------

    def translate(self, wanted: Sequence[str], name: str, back: bool = False) -> Translations:
        """Each text in the pivot language, or `back` in the users'. A translation that is empty, or that no file could hold, counts as
        none. `name` names this work in the checkpoints."""
        source, target = self.config.from_language, self.config.language
        if back:
            source, target = target, source
        unique = list(dict.fromkeys(wanted))
        if not unique:
            return {}
        found = self.checkpoints.in_shards(
            f"translations-{name}",
            unique,
            SHARD,
            lambda shard: list(self.translator.translate(shard, source, target)),
            lambda done, _: self.report(done, len(unique)),
        )
        return {text: said if _is_text(said) else None for text, said in zip(unique, found, strict=True)}

    @cached_property
    def translator(self) -> Translator:
        """Who translates."""
        return find_translator(self.config)


def pairs_in_pivot(pivoting: Pivoting, rows: Sequence[Comparison], found: Translations) -> tuple[list[Comparison], Counter[str]]:
    """Pairs of the original data as the policy would read and write them, and how many are left out, by reason."""
    kept, left_out = [], Counter[str]()
    for row in rows:
        if not pivoting.covers(row.prompt, row.source):
            kept.append(row)
            continue
        prompt = pivoting.prompt_in_pivot(row.prompt, found)
        chosen, rejected = (pivoting.text_in_pivot(text, found) for text in (row.chosen, row.rejected))
        if prompt is None or chosen is None or rejected is None:
            left_out[NO_TRANSLATION] += 1
        elif (chosen, row.chosen_finished) == (rejected, row.rejected_finished):
            left_out["equal in the pivot language"] += 1
        else:
            pivot = pivoting.note(row.prompt) | {"chosen": row.chosen, "rejected": row.rejected, "completion_by": pivoting.translator.name}
            kept.append(replace(row, prompt=prompt, chosen=chosen, rejected=rejected, pivot=pivot))
    return kept, left_out


def answers_in_pivot(pivoting: Pivoting, rows: Sequence[Demonstration], found: Translations) -> tuple[list[Demonstration], Counter[str]]:
    """Single answers of the original data, as `pairs_in_pivot`."""
    kept, left_out = [], Counter[str]()
    for row in rows:
        if not pivoting.covers(row.prompt, row.source):
            kept.append(row)
            continue
        prompt, answer = pivoting.prompt_in_pivot(row.prompt, found), pivoting.text_in_pivot(row.answer, found)
        if prompt is None or answer is None:
            left_out[NO_TRANSLATION] += 1
        else:
            pivot = pivoting.note(row.prompt) | {"answer": row.answer, "completion_by": pivoting.translator.name}
            kept.append(replace(row, prompt=prompt, answer=answer, pivot=pivot))
    return kept, left_out


def texts_of(pivoting: Pivoting, rows: Sequence[Comparison | PromptRecord | Demonstration]) -> list[str]:
    """All texts of the rows in the scope that have to be translated."""
    wanted: list[str] = []
    for row in rows:
        if pivoting.covers(row.prompt, row.source):
            wanted += pivoting.to_translate(row.prompt)
            wanted += pivoting.answers_to_translate(row)
    return wanted


def check_any(count: int, where: str) -> None:
    """Raises UserError where no prompt is in the scope, so that nothing would be answered in the pivot language."""
    if not count:
        to_do = "change pivot.scope or pivot.from_language, or set respond=direct"
        raise UserError("none of the prompts is in the scope of pivot, so nothing would be answered in the pivot language", where, to_do)


def _is_text(said: str | None) -> bool:
    """Whether a translation says something. No file can hold half of a surrogate pair, which JSON can carry."""
    return bool((said or "").strip()) and not any("\ud800" <= letter <= "\udfff" for letter in said or "")


def _turns(prompt: Prompt) -> list[str]:
    """The texts of a prompt, turn by turn."""
    if isinstance(prompt, str):
        return [part for part in _TURN.split(prompt) if not _TURN.fullmatch(part)]
    return [message["content"] for message in prompt]


def _question(prompt: Prompt) -> str:
    """What the user has said."""
    return Reply(prompt, "").question
