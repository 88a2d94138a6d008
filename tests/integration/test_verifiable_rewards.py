"""A run whose rewards are checked and not learned: the example of GSM8K as data, score, gold and labeler. With penalties and probes."""

import json

import pytest

from loop.store.measures import find_measure
from tests.unit.test_gsm8k_example import EXAMPLE, write_rows

pytestmark = pytest.mark.slow


def test_a_run_with_the_example_of_gsm8k(workspace):
    """The tiny policy gets no sum right, so its gold is that of an answer without a number. What counts is that all of it is there."""
    write_rows(workspace.folder, 150)
    (workspace.folder / "gsm8k_reward.py").write_bytes(EXAMPLE.read_bytes())
    function = "gsm8k_reward.py:score"
    workspace.small(
        "sums",
        "--rounds",
        "1",
        "data=gsm8k_reward.py:pairs",
        f"ppo.score={function}",
        f"evaluate.gold={function}",
        "labeler.kind=rules",
        "labeler.rules=[empty, missing_end, repetition]",
        "ppo.penalties={repetition: 0.5}",
        "evaluate.probes=4",
        "data.max_prompt_tokens=192",
        "evaluate.rules=[repetition, near_duplicate]",
    )
    stages = workspace.status("sums")["rounds"][0]["stages"]
    found = stages["evaluate"]["metrics"]
    rows = [json.loads(line) for line in (workspace.folder / "runs/sums/round-000/evaluate/measurements.jsonl").read_text().splitlines()]
    assert found["gold"]["mean"] == pytest.approx(sum(row["gold"] for row in rows) / len(rows)) and 0.0 <= found["gold"]["mean"] <= 1.0
    assert "gold_over_sft" in found and "oracle" in found["best_of"] and "gold" in stages["keep"]["metrics"]
    assert set(found["defects"]) == {"repetition", "near_duplicate"}
    assert found["probe_agreement"]["trailing_space"]["count"] == 4 and set(found["probe_agreement"]) == {"question_mark", "trailing_space"}
    assert {function} <= set(stages["policy"]["metrics"]["functions"]) & set(found["functions"])
    assert all(find_measure(name) for stage in stages.values() for name in stage["metrics"])
    comparisons = (workspace.folder / "runs/sums/round-000/label/comparisons.jsonl").read_text().splitlines()
    assert {json.loads(line)["labeler"] for line in comparisons} == {"rules"}
