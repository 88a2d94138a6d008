"""A run directory that waits for labels, made by hand: nothing is computed."""

import json
from collections.abc import Sequence
from pathlib import Path

from configs import load_config
from loop.labeling.answers import AnswerFile
from loop.labeling.queue import Queue
from loop.labeling.rounds import LabelingRound, waiting_round
from loop.store import artifacts
from loop.store.journal import Journal
from loop.store.layout import RunFolder
from loop.store.run_config import record_start
from rewards.comparisons import Prompt, Sample, sample_id
from rewards.data.splits import content_id
from rewards.labelers.label_files import WANTED

PEOPLE = ("labeler.kind=preferences-file", "labeler.path=labels/round-{round}.jsonl")
"""The path is relative, so a test has to be in the folder of the runs."""


def samples_of(answers: Sequence[tuple[Prompt, Sequence[str]]]) -> list[Sample]:
    """Samples of round 0, given each prompt and its completions. Every third completion is not finished."""
    return [
        Sample(sample_id(0, 0, content_id(prompt), k), content_id(prompt), prompt, text, (number + k) % 3 != 2, 0, k)
        for number, (prompt, texts) in enumerate(answers)
        for k, text in enumerate(texts)
    ]


def plain_samples(num_prompts: int, num_completions: int = 2) -> list[Sample]:
    """Samples whose texts say which they are."""
    return samples_of([(f"question {n}?", [f"answer {n}-{k}" for k in range(num_completions)]) for n in range(num_prompts)])


def make_run(folder: Path, samples: Sequence[Sample], *settings: str, labeled_by: Sequence[str] = PEOPLE) -> RunFolder:
    """A run of two rounds that waits for the labels of round 0."""
    folder.mkdir(parents=True)
    run = RunFolder(folder)
    journal = Journal(run.journal)
    record_start(folder, journal, load_config(overrides=[*labeled_by, *settings], name=folder.name, num_rounds=2))
    payload = folder / "payload"
    payload.mkdir()
    lines = [json.dumps(vars(sample)) for sample in samples]  # halves of surrogate pairs are escapes
    (payload / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    made = artifacts.commit(payload, run.stage("sample", 0), "key", {}, 1.0)
    journal.append("stage_committed", round=0, stage="sample", key=made.key, digest=made.digest, manifest=made.manifest_hash, seconds=1.0)
    journal.append("stage_started", round=0, stage="label", key="key")
    journal.append("waiting", message="waiting for labels")
    return run


def write_wanted(run: RunFolder, wanted: Sequence[dict]) -> None:
    """What the label stage of round 0 asks people about."""
    folder = run.work("label", 0).checkpoints
    folder.mkdir(parents=True)
    (folder / WANTED).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in wanted), encoding="utf-8")


def asked_in(run: RunFolder) -> LabelingRound:
    """The round that waits."""
    found = waiting_round(run)
    assert found is not None
    return found


def queue_of(run: RunFolder, double: float = 0.0) -> Queue:
    """A new page on the run, as after a restart."""
    asked = asked_in(run)
    asked.label_file.parent.mkdir(exist_ok=True)
    return Queue(asked, AnswerFile(asked.label_file), run.path / "skips.jsonl", double)


def rows(path: Path) -> list[dict]:
    """The rows of a label file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
