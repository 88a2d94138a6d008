"""From samples to picked labels and proposed pairs, and from prompts to choices, by the real stages on a tiny backbone."""

import json

import pytest
import torch

from configs import UserError
from configs.schema import RunConfig
from configs.views import visible
from loop.round import CHOOSE, STAGES
from loop.stages import STAGES as FUNCTIONS
from loop.stages import Context
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from rewards.comparisons import Comparison, PromptRecord, Sample, read_jsonl, write_jsonl
from rewards.data.splits import Split
from rewards.scoring import Scorer
from tests.conftest import perturb

JUDGE = "def judge(pairs):\n    return [pair.first.completion < pair.second.completion for pair in pairs]\n"
SPLIT = Split(seed=0, heldout_fraction=0.22)
NUM_TRAINING = sum(not SPLIT.holds_out(f"question {p}") for p in range(12))


@pytest.fixture
def run(backbone, tmp_path, monkeypatch):
    """Runs one stage on 12 prompts with 3 completions each. The result is the stage's metrics and its directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judges.py").write_text(JUDGE)
    for name in ("sft", "reward", "policy"):
        backbone.add_adapter(name)
        perturb(backbone, name, seed=len(name))
        head = torch.linspace(-1, 1, backbone.hidden_size)[None]
        Scorer(backbone, name, head).save(tmp_path / name)
        (tmp_path / name / "manifest.json").write_text('{"digest": "d"}')
        backbone.delete_adapter(name)
    (tmp_path / "samples").mkdir()
    samples = [Sample(f"0-0-p{p}-{k}", f"p{p}", f"question {p}", "abc"[k] * (p + k + 1), True, 0, k) for p in range(12) for k in range(3)]
    write_jsonl(tmp_path / "samples" / "samples.jsonl", samples)
    common = {
        "base": tmp_path,
        **{name: tmp_path / name for name in ("sft", "reward", "policy", "samples")},
        "retrained": tmp_path / "reward",
    }

    def run(name, round_number=0, inputs=None, **settings):
        stage = next(found for found in (*STAGES, CHOOSE) if found.name == name)
        output = tmp_path / f"{name}-{round_number}"
        output.mkdir()
        given = {"data": "pairs.jsonl", "labeler": {"kind": "judges.py:judge", "pick": "disagreement", "pairs_per_prompt": 2}}
        config = visible(RunConfig.model_validate(given | settings), stage.visible)
        context = Context(
            name, round_number, config, common | (inputs or {}), output, Checkpoints(), report_nothing, lambda folder: backbone
        )
        return FUNCTIONS[name](context), output

    return run


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_picked_labels_and_proposed_pairs(run, tmp_path):
    """Round 0 asks the reward model and the SFT policy. Its selector is on the committee of round 1. Each prompt has three pairs."""
    metrics, folder = run("committee")
    assert metrics["samples"] == 36 and 0.0 <= metrics["agreement"] <= 1.0
    assert list(rows_of(folder / "scores.jsonl")[0]) == ["id", "reward_model", "sft"]

    labeler = {"kind": "judges.py:judge", "pick": "disagreement", "pairs_per_prompt": 2, "budget": 8}
    metrics, labels = run("label", inputs={"committee": folder}, labeler=labeler)
    rows = read_jsonl(labels / "comparisons.jsonl", Comparison)
    assert metrics["picked"] == {"random": 2, "disagreement": 6}
    assert sum(not row.heldout for row in rows) == 8 and all(row.picked == "random" for row in rows if row.heldout)

    _, select = run("select", inputs={"labels": [labels]})
    proposed = rows_of(select / "to_label.jsonl")
    compared = {frozenset((row.chosen_id, row.rejected_id)) for row in rows}
    assert len(proposed) == 3 * NUM_TRAINING - 8 and not {frozenset(row["ids"]) for row in proposed} & compared
    assert not any(SPLIT.holds_out(row["prompt"]) for row in proposed)
    worth = [row["worth"]["disagreement"] for row in proposed]
    assert worth == sorted(worth, reverse=True) and list(proposed[0]["scores"]) == ["selector", "reward_model"]

    _, later = run("committee", round_number=1, inputs={"last": select})
    assert list(rows_of(later / "scores.jsonl")[0]) == ["id", "selector", "reward_model"]


def test_the_favourite_of_n_completions_is_chosen(run, tmp_path):
    """By the reward model, from 4 completions of each of two prompts. The scores are the reward model's own."""
    (tmp_path / "prompts").mkdir()
    (tmp_path / "select").mkdir()
    asked = [PromptRecord("a", "question 1"), PromptRecord("b", "question 2")]
    write_jsonl(tmp_path / "prompts" / "prompts.jsonl", asked)
    inputs = {"prompts": tmp_path / "prompts", "select": tmp_path / "select"}
    settings = {"select": {"use": "reward-model"}, "sample": {"num_completions": 4}, "generation": {"max_new_tokens": 6}}
    metrics, folder = run("choose", inputs=inputs, **settings)
    rows = rows_of(folder / "chosen.jsonl")
    assert metrics == {"prompts": 2, "samples": 8} and [row["prompt_id"] for row in rows] == ["a", "b"]
    for row in rows:
        scores = [candidate["score"] for candidate in row["candidates"]]
        assert len(scores) == 4 and row["score"] == max(scores) and row["runner_up"] == sorted(scores)[-2]
        assert row["completion"] == row["candidates"][scores.index(max(scores))]["completion"]
    assert run("choose", round_number=1, inputs=inputs, **settings)[0] == metrics
    assert rows_of(tmp_path / "choose-1" / "chosen.jsonl") != rows  # another round draws with other seeds


def test_a_prompt_that_is_too_long_is_named(run, tmp_path):
    (tmp_path / "prompts").mkdir()
    write_jsonl(tmp_path / "prompts" / "prompts.jsonl", [PromptRecord("a", "x" * 99)])
    with pytest.raises(UserError, match="the policy cannot answer a prompt: prompt too long") as error:
        run("choose", inputs={"prompts": tmp_path / "prompts"})
    assert f"'{'x' * 60}…'" in error.value.where and "data.max_prompt_tokens=64" in error.value.to_do
