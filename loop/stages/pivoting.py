"""The stage that writes the run's data in the language that the policy answers in (`respond: pivot`)."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from configs.errors import UserError
from loop.stages.context import Context, Metrics
from rewards.comparisons import Comparison, Demonstration, PromptRecord
from rewards.data.splits import opening
from rewards.pivoting import answers_in_pivot, check_any, pairs_in_pivot, texts_of

ALSO_HELD_OUT = "opens like a held-out prompt in the pivot language"
"""In another language, a training prompt may be the translation of a held-out one. Then it is not trained on."""
Row = Comparison | PromptRecord | Demonstration


def pivot(context: Context) -> Metrics:
    """The prompts in the scope of `pivot` as the policy reads them, and the answers to them in the pivot language.

    Everything that is translated here is translated once, for all rounds. The labeler's pairs stay as they are, because labelers judge what
    people see. No prompt that is trained on opens like a held-out one, in whatever language the policy reads them. Raises UserError if
    nothing is left of a part of the data.
    """
    pivoting = context.pivot
    assert pivoting is not None
    pairs = {name: context.pairs(name) for name in ("pairs", "heldout_pairs")}
    prompts = {name: list(context.prompts(name)) for name in ("prompts", "heldout_prompts")}
    answers = context.answers()
    everything: list[Sequence[Row]] = [*pairs.values(), *prompts.values(), answers]
    found = pivoting.translate([text for rows in everything for text in texts_of(pivoting, rows)], "data")
    left_out = Counter[str]()
    made: dict[str, Sequence[Row]] = {}
    for name, asked in prompts.items():
        made[name] = pivoting.with_prompts(asked, found)
    for name, rows in pairs.items():
        made[name], reasons = pairs_in_pivot(pivoting, rows, found)
        left_out += reasons
    if context.has_answers:
        made["answers"], reasons = answers_in_pivot(pivoting, answers, found)
        left_out += reasons
    made = {name: _within_limits(context, rows, left_out) for name, rows in made.items()}
    heldout = {opening(row.prompt) for name in ("heldout_prompts", "heldout_pairs") for row in made[name]}
    for name in made.keys() - {"heldout_prompts", "heldout_pairs"}:
        kept = [row for row in made[name] if opening(row.prompt) not in heldout]
        left_out[ALSO_HELD_OUT] += len(made[name]) - len(kept)
        made[name] = kept
    before: dict[str, Sequence[Row]] = {**pairs, **prompts}
    for name, given in before.items():
        if given and not made[name]:
            raise _nothing_left(name, len(given), left_out)
    pivoted = {name: sum(row.pivot is not None for row in made[name]) for name in made}
    if not pivoted["prompts"]:
        in_scope = sum(pivoting.covers(row.prompt, row.source) for row in prompts["prompts"])
        check_any(in_scope, "the training prompts")
        raise _nothing_left("prompts", in_scope, left_out)
    made["labeler_pairs"] = context.pairs("labeler_pairs")
    for name, written in made.items():
        context.save_rows(f"{name}.jsonl", written)
    counts: dict[str, Any] = {name: len(rows) for name, rows in made.items()}
    return counts | {"pivoted": pivoted, "translated": len(found), "translator": pivoting.translator.name, "left_out": dict(+left_out)}


def _nothing_left(name: str, count: int, left_out: Counter[str]) -> UserError:
    """The error to raise if no row of a part is left. left_out: what all parts have lost."""
    part = name.replace("_", " ").replace("heldout", "held-out")
    reasons = ", ".join(f"{number} x {reason}" for reason, number in sorted((+left_out).items()))
    to_do = "look at the translator, raise pivot.max_reply_tokens or the token limits of data, or change pivot.scope"
    return UserError(f"none of the {count} {part} is left in the pivot language; all parts together have lost {reasons}", "pivot", to_do)


def _within_limits(context: Context, rows: Sequence[Any], left_out: Counter[str]) -> list[Any]:
    """The rows that are short enough in the pivot language too."""
    kept, reasons = context.limits.keep(rows)
    left_out.update(reasons)
    return kept
