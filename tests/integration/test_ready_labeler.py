"""A run whose samples a reward model of an earlier run labels."""

import json
import shutil

import pytest

from rewards.comparisons import Comparison, read_jsonl

pytestmark = pytest.mark.slow


def test_a_reward_model_of_an_earlier_run_labels(two_rounds):
    """It labels a part of a mixture. When its files change, the labels are made again. As they are the same, nothing else is."""
    shutil.copytree(two_rounds.folder / "runs" / "whole" / "round-001" / "retrain", two_rounds.folder / "models" / "rm")
    words = ["--rounds", "1", "labeler.kind=mixture", "labeler.parts=[reward-model, rules]", "labeler.shares=[0.7, 0.3]"]
    words += ["labeler.model=models/rm", "sample.num_prompts=30"]
    two_rounds.small("labeled", *words)
    status = two_rounds.status("labeled")
    assert status["setup"]["labeler"]["metrics"]["accuracy_heldout"]["pairs"] > 10
    assert min(status["rounds"][0]["stages"]["label"]["metrics"]["by_part"].values()) > 0
    run = two_rounds.folder / "runs" / "labeled"
    rows = read_jsonl(run / "round-000" / "label" / "comparisons.jsonl", Comparison)
    scored = [row for row in rows if row.labeler == "reward-model"]
    assert len(scored) > 20 and all(0.0 <= row.confidence <= 1.0 for row in scored)
    record = json.loads((run / "setup" / "labeler" / "model.json").read_text())
    config = two_rounds.folder / "models" / "rm" / "adapter_config.json"
    base = json.loads(config.read_text())["base_model_name_or_path"]  # that of the earlier run
    assert record["files"].keys() == {"models/rm", base} and "model.safetensors" in record["files"][base]

    config.write_text(config.read_text() + "\n")
    before = two_rounds.digests("labeled")
    out, _ = two_rounds.small("labeled", *words)
    assert "setup/labeler: models/rm was edited, so this stage is made again" in out
    after = two_rounds.digests("labeled")
    assert {name for name in after if after[name] != before[name]} == {"setup/labeler"}

    (two_rounds.folder / "models" / "rm" / "adapter_model.safetensors").unlink()
    _, err = two_rounds.small("labeled", *words, exit_code=2)
    assert "there is no adapter_model.safetensors in models/rm" in err and "pickles" in err
