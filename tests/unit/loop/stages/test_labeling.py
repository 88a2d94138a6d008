"""The label stage with labelers that ask others: a judge over HTTP, and people whose labels come late."""

import json

import pytest

from configs import load_config
from loop.round import LABEL, run_rounds
from loop.stages import STAGES as FUNCTIONS
from loop.store.measures import find_measure
from rewards.comparisons import Comparison, Sample, read_jsonl, sample_id, write_jsonl
from tests.unit.loop.stages.contexts import context
from tests.unit.rewards.labelers.chat_server import Answer, ChatServer


@pytest.fixture
def sampled(tmp_path):
    """The samples of two rounds, two completions of each of ten prompts."""
    for r in (0, 1):
        (tmp_path / f"samples-{r}").mkdir()
        rows = [Sample(sample_id(r, r, f"p{p}", k), f"p{p}", f"question {p}", "ab"[k], True, r, k) for p in range(10) for k in range(2)]
        write_jsonl(tmp_path / f"samples-{r}" / "samples.jsonl", rows)
    return tmp_path


def run(folder, r, inputs, **settings):
    output = folder / f"label-{r}"
    made = context("label", {"samples": folder / f"samples-{r}"} | inputs, None, output, round_number=r, **settings)
    metrics = FUNCTIONS["label"](made)
    assert all(find_measure(name) for name in metrics)
    return metrics, output, read_jsonl(output / "comparisons.jsonl", Comparison)


def test_a_judge_over_http(sampled, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ChatServer(lambda text, before: Answer("A" if text.index("\na\n") < text.index("\nb\n") else "B")) as server:
        judge = {"url": server.url, "model": "m", "cache": str(sampled / "cache"), "price_input": 1.0}
        metrics, _, rows = run(sampled, 0, {}, labeler={"kind": "judge"}, judge=judge)
    assert {row.chosen for row in rows} == {"a"} and {row.rater for row in rows} == {"m"} and len(rows) == 10
    assert metrics["judge_replies"] == 20 and metrics["judge_cost"] == pytest.approx(20 * 100 / 1e6)


def test_labels_that_come_late_are_used_once(sampled):
    """In round 0 there are labels of 5 prompts, in round 1 of all 10 of both rounds."""
    rows = [[{"chosen_id": sample_id(r, r, f"p{p}", 0), "rejected_id": sample_id(r, r, f"p{p}", 1)} for p in range(10)] for r in (0, 1)]
    path = sampled / "labels.jsonl"
    labeler = {"kind": "preferences-file", "path": str(path), "late": "use"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[0][:5]))
    _, first, early = run(sampled, 0, {}, labeler=labeler)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[1] + rows[0]))
    metrics, _, late = run(sampled, 1, {"earlier_samples": [sampled / "samples-0"], "labels": [first]}, labeler=labeler)
    assert len(early) == 5 and metrics["late"] == 5 and metrics["left_out"] == {"used in an earlier round": 5}
    assert [row.generation for row in late] == [0] * 5 + [1] * 10
    assert len({row.chosen_id for row in early + late}) == 20


class Recorder:
    """A `Run` that makes nothing and notes the inputs of the label stage."""

    def __init__(self, *words):
        self.config, self.inputs = load_config(overrides=words, num_rounds=3), []
        run_rounds(self)

    def stage(self, stage, round_number=None, **inputs):
        if stage == LABEL:
            self.inputs.append({name: value for name, value in inputs.items() if value})
        return stage.name, round_number


def test_a_round_reads_earlier_ones_only_where_late_labels_are_used():
    assert all(inputs.keys() == {"samples", "base", "answers"} for inputs in Recorder().inputs)
    people = ("data=x.jsonl", "labeler.kind=preferences-file", "labeler.path=labels.jsonl", "labeler.late=use")
    assert [inputs.get("earlier_samples") for inputs in Recorder(*people).inputs] == [None, [("sample", 0)], [("sample", 0), ("sample", 1)]]
    assert Recorder(*people).inputs[2]["labels"] == [("label", 0), ("label", 1)]


def test_a_part_of_a_mixture_gets_what_it_needs():
    """The reward model that labels is trained where it is a part."""
    words = ("data=x.jsonl", "data.labeler_fraction=0.5", "labeler.kind=mixture", "labeler.shares=[0.5, 0.5]", "judge.url=http://x/v1")
    assert all(inputs["labeler"] == ("labeler", None) for inputs in Recorder(*words, "labeler.parts=[reward-model, judge]").inputs)
