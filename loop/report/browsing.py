"""The data of the sample browser: prompts with the answers of each round, as JSON that can stand in a page.

Whatever is in a sample, it stays text: every character that could end the block or change how text runs is written as an escape, and the
page only ever sets `textContent`.
"""

import json
from collections.abc import Sequence
from typing import Any

from loop.printing import printable
from loop.report.answers import HELD_OUT, LABELED, Shown, held_out_answers, labeled_answers, prompts_of
from loop.report.reading import RunView
from loop.round import SAMPLE

MAX_CHARACTERS = 3000
"""How much of a text the page holds. The rest is counted."""
HELD_OUT_SHARE = 0.6
"""The share of the answers that are to held-out prompts, which every round has answered."""


def browser_data(runs: Sequence[RunView], limit: int) -> dict[str, Any]:
    """Prompts with answers, about `limit` answers in all. Two runs share their columns' prompts where they have asked the same ones."""
    cards: dict[tuple[str, str], dict[str, Any]] = {}
    total, asked = 0, [prompts_of(run, HELD_OUT) for run in runs]
    common = set(asked[0]).intersection(*asked[1:])
    wanted = max(1, int(limit * HELD_OUT_SHARE / sum(1 + len(run.evaluated) for run in runs)))
    for number, (run, prompts) in enumerate(zip(runs, asked, strict=True)):
        only = set(spread([prompt for prompt in prompts if prompt in common] or prompts, wanted))
        shown = [answer for r in (None, *run.evaluated) for answer in held_out_answers(run, r, only)]
        shown += _labeled(run, max(0, limit // len(runs) - len(shown)))
        total += len(shown)
        for answer in shown:
            card = cards.setdefault((answer.kind, answer.prompt_id), _card(answer))
            card["a"].append(_row(answer, number))
    return {"runs": [printable(run.name) for run in runs], "cards": list(cards.values()), "answers": total}


def _labeled(run: RunView, budget: int) -> list[Shown]:
    """Some of the answers that labels were asked for, whole prompts at a time, as many of each round."""
    found: list[Shown] = []
    with_samples = [r for r in run.rounds if run.state.stage(SAMPLE.name, r).state == "done"]
    for r in with_samples:
        rows = list(run.rows(SAMPLE.name, r, "samples.jsonl"))
        prompts = list(dict.fromkeys(str(row.get("prompt_id")) for row in rows))
        per_prompt = max(1, len(rows) // max(1, len(prompts)))
        only = set(spread(prompts, budget // len(with_samples) // per_prompt))
        found += labeled_answers(run, r, only) if only else []
    return found


def spread(items: Sequence[str], count: int) -> list[str]:
    """At most `count` of the items, evenly spread, so that all sources are there."""
    if count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def as_json(data: Any) -> str:
    """JSON for a script element. `<`, `>` and `&` are escapes, so nothing in it is a tag; all of it is ASCII."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _card(answer: Shown) -> dict[str, Any]:
    prompt, source = _cut(answer.prompt), printable(answer.source)
    return {"k": answer.kind, "p": prompt, "s": source, "l": answer.script, "i": printable(answer.prompt_id)[:24], "a": []}


def _row(answer: Shown, run_number: int) -> dict[str, Any]:
    """One answer, under short names: run, round, text, scores, defects, [won, lost, tied], and what the policy read and wrote instead."""
    row: dict[str, Any] = {"n": run_number, "r": answer.round, "t": _cut(answer.text)}
    row["m"] = {name: round(value, 3) for name, value in answer.scores.items()}
    row |= {"d": answer.defects} if answer.defects else {}
    row |= {"w": [answer.won, answer.lost, answer.tied]} if answer.kind == LABELED else {}
    row |= {"q": _cut(answer.asked)} if answer.asked else {}
    row |= {"o": _cut(answer.written)} if answer.asked or answer.written else {}
    return row | ({} if answer.finished else {"u": 1})


def _cut(text: str) -> str:
    """The beginning of a text, with how much more there is."""
    rest = len(text) - MAX_CHARACTERS
    return printable(text) if rest <= 0 else f"{printable(text[:MAX_CHARACTERS])} … ({rest:,} more characters)"
