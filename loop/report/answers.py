"""The answers of a run with what was said of them: scores, rules, labels. The report's browser and `loop samples` show them.

Rules are asked again here, because a stage keeps only their rates. Rules of the user's own are not called: a report runs no foreign code.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loop.promotion.choosing import evaluation_stage
from loop.report.reading import RunView
from loop.round import LABEL, SAMPLE, SELECT
from loop.store.estimates import is_number
from rewards.rules import RULES, find_rules
from rewards.rules.duplicates import texts_to_compare
from rewards.rules.texts import main_script
from rewards.world.replies import defects_of

HELD_OUT, LABELED = "held-out", "labeled"
"""Answers to held-out prompts, one of each policy, and answers that labels were asked for, several to a prompt."""
OWN = "own"
"""The key of a row under which its own texts are, where people see translations."""
RULES_READ = 20_000
"""How many characters of an answer the rules are asked about. More would take minutes for text that repeats without an end."""
SCORES = {"gold": "gold", "proxy_score": "reward model", "kl": "kl", "length": "length"}
"""What is measured of an answer to a held-out prompt -> its name here."""


@dataclass(frozen=True)
class Shown:
    """One answer. round: the one whose policy wrote it; None means the SFT policy. won, lost, tied: comparisons. asked, written: what the
    policy read and wrote, where people see translations."""

    kind: str
    round: int | None
    prompt_id: str
    prompt: str
    source: str
    script: str
    text: str
    finished: bool
    scores: dict[str, float]
    defects: list[str]
    won: int = 0
    lost: int = 0
    tied: int = 0
    asked: str = ""
    written: str = ""


@dataclass
class _Labels:
    won: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    tied: Counter[str] = field(default_factory=Counter)


def prompts_of(run: RunView, kind: str) -> list[str]:
    """The prompts that have answers of a kind, each once."""
    stages = [(evaluation_stage(r), r) for r in (None, *run.rounds)] if kind == HELD_OUT else [(SAMPLE, r) for r in run.rounds]
    return list(dict.fromkeys(str(row.get("prompt_id")) for stage, r in stages for row in run.rows(stage.name, r, "samples.jsonl")))


def held_out_answers(run: RunView, r: int | None, only: set[str] | None = None, also: Sequence[str] = ()) -> Iterator[Shown]:
    """The answers of a round's policy to held-out prompts. only: these prompts. also: rules that are asked besides those of the run."""
    stage = evaluation_stage(r).name
    measured = {str(row.get("prompt_id")): row for row in run.rows(stage, r, "measurements.jsonl")}
    rows = list(run.rows(stage, r, "samples.jsonl"))
    for row, defects in _judged(run, rows, only, also):
        found = measured.get(str(row.get("prompt_id")), {})
        yield _shown(HELD_OUT, r, row, {name: value for key, name in SCORES.items() if is_number(value := found.get(key))}, defects)


def labeled_answers(run: RunView, r: int, only: set[str] | None = None, also: Sequence[str] = ()) -> Iterator[Shown]:
    """The answers of a round's policy that labels were asked for. only, also: as in `held_out_answers`."""
    scores = {row.get("sample_id"): row.get("score") for row in run.rows(SELECT.name, r, "scores.jsonl")}
    labels = _labels(run, r)
    rows = list(run.rows(SAMPLE.name, r, "samples.jsonl"))
    for row, defects in _judged(run, rows, only, also):
        number = str(row.get("id"))
        found = {"selector": score} if is_number(score := scores.get(row.get("id"))) else {}
        if is_number(length := row.get("num_tokens")):
            found["length"] = length
        yield _shown(LABELED, r, row, found, defects, (labels.won[number], labels.lost[number], labels.tied[number]))


def _labels(run: RunView, r: int) -> _Labels:
    """How often each sample of a round was chosen, rejected and in a tie."""
    found = _Labels()
    for row in run.rows(LABEL.name, r, "comparisons.jsonl"):
        chosen, rejected = str(row.get("chosen_id") or ""), str(row.get("rejected_id") or "")
        if row.get("tie"):
            found.tied.update([chosen, rejected])
        else:
            found.won[chosen] += 1
            found.lost[rejected] += 1
    return found


def _judged(
    run: RunView, rows: Sequence[Mapping[str, Any]], only: set[str] | None, also: Sequence[str]
) -> Iterator[tuple[Mapping[str, Any], list[str]]]:
    """Each row with the rules that fire on it."""
    rows = [_as_shown(row) for row in rows]
    names = [name for name in dict.fromkeys([*(run.config.get("evaluate.rules") or RULES), *also]) if name in RULES]
    expected = run.config.get("rules.expected_language")
    rules = find_rules(names, expected if expected in ("th", "en", "any") else "same")
    others = texts_to_compare(rules, ((row.get("prompt", ""), str(row.get("completion", ""))[:RULES_READ]) for row in rows))
    for row in rows:
        if only is not None and str(row.get("prompt_id")) not in only:
            continue
        text, source = str(row.get("completion", ""))[:RULES_READ], str(row.get("source", ""))
        found = defects_of(str(row.get("prompt_id")), row.get("prompt", ""), source, text, bool(row.get("finished", True)), rules, others)
        yield row, [name for name, fires in found.items() if fires]


def _shown(
    kind: str, r: int | None, row: Mapping[str, Any], scores: dict[str, float], defects: list[str], labels: tuple[int, int, int] = (0, 0, 0)
) -> Shown:
    prompt, text = prompt_text(row.get("prompt", "")), str(row.get("completion", ""))
    finished, source = bool(row.get("finished", True)), str(row.get("source", ""))
    script = main_script(prompt) or ""
    own = row.get(OWN) or {}
    texts = prompt_text(own.get("prompt", "")), str(own.get("completion", ""))
    return Shown(kind, r, str(row.get("prompt_id", "")), prompt, source, script, text, finished, scores, defects, *labels, *texts)


def _as_shown(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row with the texts that people see. What the policy read and wrote is then under OWN."""
    pivot = row.get("pivot")
    if not isinstance(pivot, dict):
        return row
    own = {name: row.get(name, "") for name in ("prompt", "completion")}
    return {**row, **{name: pivot.get(name, text) for name, text in own.items()}, OWN: own}


def prompt_text(prompt: Any) -> str:
    """A prompt as one text. The turns of a dialogue are named; a single question is not."""
    if not isinstance(prompt, list):
        return str(prompt)
    turns = [(str(turn.get("role", "")), str(turn.get("content", ""))) for turn in prompt if isinstance(turn, dict)]
    return turns[0][1] if len(turns) == 1 else "\n".join(f"{role}: {said}" for role, said in turns)
