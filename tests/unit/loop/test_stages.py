"""Stages called in this process, on a tiny backbone whose answers are empty: which rows they take."""

import json

import pytest

from configs.schema import RunConfig
from loop import stages
from policies.checkpoints import Checkpoints
from policies.generation import Response
from rewards.comparisons import PromptRecord, read_jsonl, write_jsonl

SETTINGS = {
    "data": "pairs.jsonl",
    "labeler": {"kind": "preferences-file", "path": "labels.jsonl"},
    "reward": {"normalization_samples": 60},
    "evaluate": {"num_prompts": 60},
    "sample": {"num_prompts": 60, "num_completions": 2, "earlier_fraction": 0.5},
}


@pytest.fixture
def folders(backbone, tmp_path):
    """Data of 100 prompts, sorted by source as files often are, and an adapter."""
    (tmp_path / "data").mkdir()
    for name in ("prompts", "heldout_prompts"):
        records = [PromptRecord(f"{name}-{i}", f"question {i}", "first" if i < 66 else "last") for i in range(100)]
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", records)
    backbone.add_adapter("sft")
    backbone.save_adapter("sft", tmp_path / "adapter")
    (tmp_path / "adapter" / "manifest.json").write_text('{"digest": "d"}')
    return {"data": tmp_path / "data", "base": tmp_path, **dict.fromkeys(("sft", "policy", "last"), tmp_path / "adapter")}


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    """The prompts and seeds of each call of the sampler, which is replaced, for speed, by one that always ends at once."""
    calls = []

    def respond(backbone, adapter, prompts, seeds, *rest):
        calls.append(list(zip(map(backbone.tokenizer.decode, prompts), seeds, strict=True)))
        return [Response([backbone.tokenizer.eos_token_id], True) for _ in prompts]

    monkeypatch.setattr(stages, "generate_sharded", respond)
    return calls


def context(stage, folders, backbone, output, seed=0, round_number=None):
    output.mkdir(parents=True, exist_ok=True)
    config = RunConfig.model_validate(SETTINGS | {"seed": seed})
    return stages.Context(
        stage, round_number, config, folders, output, Checkpoints(), lambda done, total: None, get_backbone=lambda folder: backbone
    )


def asked(rows):
    return {(row["prompt_id"], row["source"]) for row in rows}


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_any_held_out_prompt_may_be_evaluated_and_all_rounds_evaluate_the_same(backbone, folders, tmp_path):
    """60 of 100 prompts a run. Over 16 seeds a prompt is left out of all with probability 0.4^16, so none of the 100 is."""
    seen = set()
    for seed in range(16):
        stages.baseline(context("baseline", folders, backbone, tmp_path / "before", seed))
        before = asked(rows_of(tmp_path / "before" / "samples.jsonl"))
        assert len(before) == 60
        seen |= before
    assert len(seen) == 100
    later = context("evaluate", folders, backbone, tmp_path / "later", seed, round_number=3)
    stages._measure_policy(later, "sft", None)
    assert asked(rows_of(tmp_path / "later" / "samples.jsonl")) == before


def test_any_prompt_may_be_sampled_also_from_the_last_round(backbone, folders, tmp_path):
    """30 of 100 prompts are asked of the last round's policy too: 0.7^40 = 6e-7 that a prompt is in none of 40 runs."""
    again = set()
    for seed in range(40):
        stages.sample(context("sample", folders, backbone, tmp_path / "out", seed, round_number=1))
        rows = rows_of(tmp_path / "out" / "samples.jsonl")
        earlier = asked(row for row in rows if row["generation"] == 0)
        assert len(asked(rows)) == 60 and len(earlier) == 30
        again |= earlier
    assert len(again) == 100


def test_scores_are_normalised_on_any_prompts_the_same_in_every_round(backbone, folders, tmp_path, taken):
    class Scorer:
        def normalize_on(self, sequences):
            assert len(sequences) == 60

    for round_number in (0, 1):
        stages._normalize(context("reward", folders, backbone, tmp_path / "out", round_number=round_number), Scorer())
    assert taken[0] == taken[1]
    for seed in range(1, 16):
        stages._normalize(context("reward", folders, backbone, tmp_path / "out", seed, round_number=0), Scorer())
    every = {record.prompt for record in read_jsonl(folders["data"] / "prompts.jsonl", PromptRecord)}
    assert {text for rows in taken for text, _ in rows} == every
