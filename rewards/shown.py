"""What people see of answers by way of another language (`respond: pivot`, pivoting.py). Plain data; imports no ML library.

In a record of such an answer, `prompt` and `completion` are what the policy reads and writes, and `pivot` has what people see instead:

    from, to                       the language of the users, and the pivot language
    prompt, prompt_by              what the user wrote, and who translated it for the policy; empty if nobody did
    completion, completion_by      of a sample: what is shown of the answer, and who translated it back; empty if it is shown as it is
    chosen, rejected               of a comparison: what the labeler saw; of the original data: what they were
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from rewards.comparisons import Comparison, Prompt, PromptRecord, Sample
from rewards.rules import language
from rewards.rules.reply import ExpectedLanguage, Reply

OWN_TEXTS = "about texts that are in no sample, to a prompt that is answered in the pivot language"

Shown = TypeVar("Shown", PromptRecord, Sample, Comparison)


def as_shown(record: Shown) -> Shown:
    """A record with the texts that people see: of the user's language."""
    pivot = record.pivot
    return replace(record, **{name: pivot[name] for name in _TEXTS[type(record)]}) if pivot else record


_TEXTS = {PromptRecord: ("prompt",), Sample: ("prompt", "completion"), Comparison: ("prompt", "chosen", "rejected")}
"""The fields of a record that have another text for people."""


def in_pivot(
    rows: Sequence[Comparison], samples: Sequence[Sample], covers: Callable[[Prompt, str], bool] | None = None
) -> tuple[list[Comparison], Counter[str]]:
    """Comparisons of shown answers as those of the policy's own, and how many are left out, by reason.

    A label that brings texts of its own is used where its prompt is answered directly. samples: all that the labels may be about. covers:
    whether a prompt that was not sampled would be answered in the pivot language; None in a run that answers directly.
    """
    by_id, left_out, kept = {sample.id: sample for sample in samples}, Counter[str](), []
    sampled = {sample.prompt_id for sample in samples}
    pivoted = {sample.prompt_id for sample in samples if sample.pivot}
    for row in rows:
        if covers and row.prompt_id not in sampled and covers(row.prompt, row.source):
            left_out[OWN_TEXTS] += 1
        elif row.prompt_id not in pivoted:
            kept.append(row)
        elif row.chosen_id not in by_id or row.rejected_id not in by_id:
            left_out[OWN_TEXTS] += 1
        else:
            chosen, rejected = by_id[row.chosen_id], by_id[row.rejected_id]
            pivot = (chosen.pivot or {}) | {"chosen": row.chosen, "rejected": row.rejected}
            pivot.pop("completion", None)
            kept.append(replace(row, prompt=chosen.prompt, chosen=chosen.completion, rejected=rejected.completion, pivot=pivot))
    return kept, left_out


def measure(samples: Sequence[Sample]) -> dict[str, float]:
    """Of all answers, the share by way of the pivot language; of those, the share in another language than the pivot language, as the rule
    `wrong_language` tells it, and the share that nobody has translated back. Empty where all are direct."""
    pivoted = [sample for sample in samples if sample.pivot]
    if not pivoted:
        return {}
    wrong = [language.wrong_language(_intended(sample)).fires for sample in pivoted]
    as_it_is = [not (sample.pivot or {}).get("completion_by") for sample in pivoted]
    return {
        "share": len(pivoted) / len(samples),
        "wrong_language": sum(wrong) / len(pivoted),
        "shown_as_it_is": sum(as_it_is) / len(pivoted),
    }


def as_rules_call(code: str) -> ExpectedLanguage:
    """A language as the rules call it. Those that they do not know are "any"."""
    return "th" if code == "th" else "en" if code == "en" else "any"


def _intended(sample: Sample) -> Reply:
    """An answer with the language that it should be in."""
    language = as_rules_call((sample.pivot or {})["to"])
    return Reply(sample.prompt, sample.completion, sample.finished, sample.source, expected_language=language)
