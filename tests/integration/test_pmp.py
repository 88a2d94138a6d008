"""A run whose reward models start from preference-model pretraining on made votes."""

import json

import pytest

from loop.store.measures import find_measure

pytestmark = pytest.mark.slow


def test_a_run_that_starts_from_votes(workspace):
    """Its reward model of round 0 and its first retrained one say where they start. What was made before `pmp` is that of a run without."""
    words = ["--rounds", "1", "retrain.init=sft"]
    votes = ["pmp.sources=[{path: 'rewards.world.votes:rows', cap: 60}]", "pmp.binarised=true"]
    workspace.small("plain", *words)
    out, _ = workspace.small("voted", *words, *votes)
    assert "setup/pmp" in out and "accuracy_original" in out
    plain, voted = workspace.status("plain"), workspace.status("voted")
    assert "pmp" not in plain["setup"] and list(voted["setup"])[-1] == "pmp"
    pretrained = voted["setup"]["pmp"]["metrics"]
    assert pretrained["pairs"] > 20 and pretrained["accuracy_heldout"]["pairs"] > 5
    assert all(find_measure(name) for name in pretrained)
    starts = [[status["rounds"][0]["stages"][stage]["metrics"]["start"] for stage in ("reward", "retrain")] for status in (plain, voted)]
    assert starts == [["sft", "sft"], ["pmp", "pmp"]]
    before, after = workspace.digests("plain"), workspace.digests("voted")
    assert [name for name in before if before[name] == after[name]][:5] == [
        "setup/data",
        "setup/base",
        "setup/filter",
        "setup/sft",
        "setup/baseline",
    ]
    assert before["0/reward"] != after["0/reward"]
    (account,) = json.loads((workspace.folder / "runs/voted/setup/pmp/sources.json").read_text())
    assert account["used"] == 60 and list(account["files"]) == ["rewards.world.votes:rows"]
    out, _ = workspace.small("voted", *words, *votes)
    assert "setup/pmp  " not in out and workspace.digests("voted") == after
