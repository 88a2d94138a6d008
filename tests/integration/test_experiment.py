"""`loop experiment` with real stages, in one process: what is copied is what would have been made."""

import json

import pytest

from loop.store.journal import read_events
from tests.integration.conftest import IN_PROCESS, SMALL

pytestmark = pytest.mark.slow

FILE = """
rounds: 1
seeds: [0]
arms:
  concat: {}
  last: {retrain.data: last}
compare: [[last, concat]]
metrics: [evaluate.gold, retrain.accuracy_fresh, select.judged.features.pairwise]
"""
SETUP = ("data", "base", "filter", "sft", "baseline")
COPIED = [*(f"setup/{name}" for name in SETUP), *(f"0/{name}" for name in ("reward", "policy", "sample", "answer", "label", "keep"))]
MADE = ["0/retrain", "0/select", "0/evaluate"]
"""`select` is made again with the same bytes, because its selectors do not learn from the retrained reward model. So `keep` is copied."""


def test_an_arm_with_a_late_setting_makes_only_the_late_stages(workspace):
    """A run of its own with the settings of the arm, which copies nothing, ends with the same bytes in every stage."""
    (workspace.folder / "retrain.yaml").write_text(FILE)
    out, _ = workspace.loop("experiment", "retrain.yaml", IN_PROCESS, *SMALL)
    runs = workspace.folder / "runs" / "retrain"
    assert "last - concat" in out and str(runs / "results.md") in out
    committed = [event for event in read_events(runs / "last-seed-0" / "journal.jsonl") if event.event == "stage_committed"]
    names = {f"{'setup' if event.round is None else event.round}/{event.stage}": event.copied_from for event in committed}
    assert names == dict.fromkeys(COPIED, "concat-seed-0") | dict.fromkeys(MADE)
    assert not any(event.copied_from for event in read_events(runs / "concat-seed-0" / "journal.jsonl"))

    workspace.small("alone", "--rounds", "1", "retrain.data=last")
    alone, found = workspace.digests("alone"), {}
    for event in committed:
        found[f"{'setup' if event.round is None else event.round}/{event.stage}"] = event.digest
    assert found == alone

    results = json.loads((runs / "results.json").read_text())
    values = {(row["metric"], row["arm"]): row["value"] for row in results["values"]}
    for row in results["differences"]:
        assert row["mean"] == values[row["metric"], "last"] - values[row["metric"], "concat"]
    assert {row["metric"] for row in results["differences"]} == {
        "evaluate.gold",
        "retrain.accuracy_fresh",
        "select.judged.features.pairwise",
    }
    again, _ = workspace.loop("experiment", "retrain.yaml", IN_PROCESS, *SMALL)
    assert "setup/" not in again and "round-000/" not in again and "last - concat" in again
