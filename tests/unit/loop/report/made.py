"""A run directory as a real run leaves it, as far as a report reads it, written in no time and with figures that a test chooses."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loop.report.reading import RunView, read_run
from loop.store.journal import Journal
from loop.store.layout import RunFolder
from rewards.comparisons import write_jsonl

PROMPTS = ("What does a cat eat?", "Where should I stay?", "How do I sort a list?", "แมวกินอะไร")
SETTINGS = """
base: {model: embedded}
data: {source: embedded}
labeler: {kind: gold}
evaluate: {rules: [empty, repetition, footer]}
seed: 0
"""


def summary(mean: float, error: float = 0.05, count: int = 4) -> dict[str, float]:
    """A mean as the metrics of a stage have it."""
    return {"mean": mean, "standard_error": error, "count": count}


def accuracy(mean: float, error: float = 0.02, pairs: int = 300) -> dict[str, float]:
    """An accuracy as the metrics of a stage have it."""
    return {"accuracy": mean, "standard_error": error, "pairs": pairs}


def policy_metrics(gold: float, **others: Any) -> dict[str, Any]:
    """What `baseline` and `evaluate` measure."""
    return {"gold": summary(gold), "length": summary(10.0), "defects": {"empty": 0.0, "repetition": 0.02}} | others


def round_metrics(r: int, gold: float, sft: float, others: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the stages of a round measure, by stage."""
    judged = {name: {"pairwise": accuracy(value)} for name, value in (("features", 0.7), ("longest", 0.5))}
    evaluated = policy_metrics(gold, kl=summary(1.0 + r), gold_over_sft=summary(gold - sft), proxy_gain=summary(0.8))
    evaluated["reward_accuracy"] = {"original": accuracy(0.7), "round-000": accuracy(0.6)}
    return {
        "policy": {"memory": {"base": 2**20, "peak": 2**30}},
        "sample": {"samples": 8},
        "label": {"comparisons": 20, "heldout": 4, "ties": 1},
        "retrain": {
            "accuracy_fresh_before": accuracy(0.6),
            "accuracy_fresh": accuracy(0.65),
            "mixture": {"original": 50, f"round-{r:03d}": 50},
        },
        "select": {"judged": judged},
        "keep": {"kept_by_round": {f"round-{r:03d}": 3}},
        "evaluate": {**evaluated, **others},
    }


def make_run(
    folder: Path,
    golds: Sequence[float] = (2.0, 3.0),
    sft: float = 1.0,
    answers: Sequence[str] = ("A cat eats fish.", "Near the river."),
    extra: Mapping[str, Any] | None = None,
    settings: str = SETTINGS,
) -> RunView:
    """A finished run with a round for each of `golds`. extra: metrics of the last round's `evaluate`. answers: the texts of its samples."""
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    run.config.write_text(settings, encoding="utf-8")
    journal = Journal(run.journal)
    journal.append("run_started", num_rounds=len(golds))
    _commit(journal, "baseline", None, policy_metrics(sft))
    _write_answers(run.stage("baseline", None), None, sft, answers)
    for r, gold in enumerate(golds):
        is_last = r == len(golds) - 1
        for stage, metrics in round_metrics(r, gold, sft, (extra or {}) if is_last else {}).items():
            _commit(journal, stage, r, metrics)
        _write_answers(run.stage("evaluate", r), r, gold, answers)
        _write_labels(run, r, answers)
        write_jsonl(
            _made(run.stage("policy", r)) / "metrics.jsonl", [{"objective/scores": 0.1 * i, "objective/kl": 0.2 * i} for i in range(6)]
        )
    journal.append("run_done")
    return read_run(folder)


def _commit(journal: Journal, stage: str, r: int | None, metrics: dict[str, Any]) -> None:
    journal.append("stage_committed", stage=stage, round=r, seconds=1.5, metrics=metrics)


def _write_answers(stage: Path, r: int | None, gold: float, answers: Sequence[str]) -> None:
    """One answer to each prompt."""
    rows = [_sample(f"p{i}", prompt, answers[i % len(answers)], r) for i, prompt in enumerate(PROMPTS)]
    _write(_made(stage) / "samples.jsonl", rows)
    _write(stage / "measurements.jsonl", [{"prompt_id": f"p{i}", "length": 4, "gold": gold + i / 10} for i in range(len(PROMPTS))])


def _write_labels(run: RunFolder, r: int, answers: Sequence[str]) -> None:
    """Two answers to each prompt, of which the first one is chosen."""
    rows = [_sample(f"p{i}", prompt, answers[k % len(answers)], r, k) for i, prompt in enumerate(PROMPTS) for k in range(2)]
    _write(_made(run.stage("sample", r)) / "samples.jsonl", rows)
    _write(_made(run.stage("select", r)) / "scores.jsonl", [{"sample_id": row["id"], "score": float(row["k"])} for row in rows])
    pairs = [{"chosen_id": f"{r}-{r}-p{i}-0", "rejected_id": f"{r}-{r}-p{i}-1", "tie": i == 3} for i in range(len(PROMPTS))]
    _write(_made(run.stage("label", r)) / "comparisons.jsonl", pairs)


def _sample(prompt_id: str, prompt: str, text: str, r: int | None, k: int = 0) -> dict[str, Any]:
    number = f"{r}-{r}-{prompt_id}-{k}"
    content = [{"role": "user", "content": prompt}]
    return {"id": number, "prompt_id": prompt_id, "prompt": content, "completion": text, "k": k, "source": "helpful", "num_tokens": 4}


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines that may hold anything, also halves of surrogate pairs."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
