"""The policy by DPO on a tiny backbone: which rows it is trained on, and what it writes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from configs.schema import RunConfig
from configs.views import visible
from loop.round import DPO
from loop.stages import STAGES, Context, rounds
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from rewards.comparisons import Comparison, write_jsonl
from rewards.replay import mix
from tests.conftest import perturb


def pair(question, generation=None, **origin):
    return Comparison(question, question, "yes", "no", generation=generation, **origin)


ORIGINAL = [*(pair(f"original {i}") for i in range(12)), pair("original tie", tie=True)]
LABELS = [
    [*(pair(f"round {r}, {i}", r) for i in range(6)), pair(f"round {r}, held out", r, heldout=True), pair(f"round {r}, tie", r, tie=True)]
    for r in (0, 1)
]


@pytest.fixture
def run(backbone, tmp_path, monkeypatch):
    """Makes the policy of a round with some more inputs. Returns its metrics, its directory and the prompts that it was trained on."""
    backbone.add_adapter("sft")
    perturb(backbone, "sft")
    backbone.save_adapter("sft", tmp_path / "sft")
    write_jsonl(tmp_path / "pairs.jsonl", ORIGINAL)
    config = RunConfig.model_validate({"trainer": "dpo", "dpo": {"batch_size": 4, "learning_rate": 1e-2, "num_epochs": 4}})
    prompts, train_dpo = [], rounds.train_dpo

    def recording(backbone, adapter, pairs, *rest, **options):
        prompts[:] = [backbone.tokenizer.decode(prompt) for prompt, _, _ in pairs]
        return train_dpo(backbone, adapter, pairs, *rest, **options)

    monkeypatch.setattr(rounds, "train_dpo", recording)

    def run(round_number, **inputs):
        folder = tmp_path / f"policy-{round_number}"
        folder.mkdir()
        given = {"base": tmp_path, "sft": tmp_path / "sft", "data": tmp_path, **inputs}
        context = Context(
            DPO.name,
            round_number,
            visible(config, DPO.visible),
            given,
            folder,
            Checkpoints(),
            report_nothing,
            get_backbone=lambda folder: backbone,
        )
        return STAGES[DPO.name](context), folder, list(prompts)

    return run


def test_round_0_is_trained_on_the_original_pairs(run, backbone, tmp_path):
    metrics, folder, prompts = run(0)
    assert prompts == [f"original {i}" for i in range(12)]
    assert metrics["mixture"] == {"original": 12} and metrics["pairs"] == 12 and metrics["reference"] == "sft"
    assert metrics["loss"] < 0.5 and metrics["accuracy"] == 1.0
    sft, trained = load_file(tmp_path / "sft" / "adapter_model.safetensors"), load_file(folder / "adapter_model.safetensors")
    assert sft.keys() == trained.keys() and not all(torch.equal(sft[name], trained[name]) for name in sft)
    assert all(torch.equal(sft[name], tensor) for name, tensor in backbone.adapter_state("sft").items())
    assert "The policy after DPO" in (folder / "README.md").read_text()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and rows[-1]["rewards/margins"] > 0  # 3 batches of 4, 4 times


def test_a_later_round_is_trained_on_the_rows_of_its_reward_model(run, tmp_path):
    """`retrain` of round 1 has drawn 10 of the 24 rows that are neither held out nor ties. DPO of round 2 takes the same ones, in order."""
    folders = []
    for r, rows in enumerate(LABELS):
        folders.append(tmp_path / f"labels-{r}")
        folders[-1].mkdir()
        write_jsonl(folders[-1] / "comparisons.jsonl", rows)
    config = RunConfig.model_validate({"retrain": {"max_pairs": 10}})
    mixture = mix(ORIGINAL, LABELS, config.retrain, seed=3)
    mixture.write(tmp_path / "mixture.json")
    metrics, _, prompts = run(2, retrained=tmp_path, labels=folders)
    assert prompts == [row.prompt for row in mixture.rows(ORIGINAL, LABELS)] and len(prompts) == 10
    assert metrics["mixture"] == {"original": 4, "round-000": 2, "round-001": 4}  # 0.4, 0.2 and 0.4 of 10
