"""Labelers, the mixture and candidate groups: plain data in, plain data out."""

import json
import math
import random

import pytest

from configs import UserError
from configs.errors import WaitingForLabels
from configs.schema import LabelerConfig, RetrainConfig
from rewards.comparisons import Comparison, Sample, group_candidates
from rewards.labelers import bernoulli, compare_by_file, compare_by_scores
from rewards.mixture import composition, mix


def samples(num_prompts=200, n=4):
    return [Sample(f"s{p}-{k}", f"p{p}", f"prompt {p}", f"answer {k}", True, 0, k) for p in range(num_prompts) for k in range(n)]


def test_the_law_of_the_labeler():
    # P(a beats b) at difference 1 is 1 / (1 + e^-1) = 0.7311; 20,000 draws have a standard error of 0.0031.
    rng = random.Random(0)
    assert sum(bernoulli(1.0, rng) for _ in range(20_000)) / 20_000 == pytest.approx(1 / (1 + math.exp(-1)), abs=0.012)


def test_comparisons_by_score():
    found = compare_by_scores(samples(), {s.id: 100.0 * s.k for s in samples()}, LabelerConfig(pairs_per_prompt=3), seed=0)
    assert len(found) == 600
    assert all(c.chosen > c.rejected and c.generation == 0 for c in found)
    by_prompt = {}
    for c in found:
        by_prompt.setdefault(c.prompt_id, []).append(c)
    assert all(len({x.heldout for x in rows}) == 1 for rows in by_prompt.values())  # a prompt is on one side only
    assert 0.12 < sum(rows[0].heldout for rows in by_prompt.values()) / 200 < 0.28
    assert found == compare_by_scores(samples(), {s.id: 100.0 * s.k for s in samples()}, LabelerConfig(pairs_per_prompt=3), seed=0)


def test_equal_completions_are_not_compared():
    same = [Sample(f"s{k}", "p", "q", "one answer", True, 0, k) for k in range(4)]
    assert compare_by_scores(same, {s.id: 0.0 for s in same}, LabelerConfig(), 0) == []


def by_file(path, rows, round_number=0):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return compare_by_file(samples(3), LabelerConfig(kind="preferences-file", path=str(path)), 0, round_number, path)


def test_a_file_of_sample_ids_and_of_texts(tmp_path):
    found = by_file(
        tmp_path / "l.jsonl",
        [
            {"chosen_id": "s0-1", "rejected_id": "s0-2", "rater": "ann", "labeled_at": "2026-11-22"},
            {"chosen_id": "s1-1", "rejected_id": "s1-2", "tie": True},
            {"chosen_id": "other-round", "rejected_id": "s1-2"},
            {"prompt": "q", "chosen": "a", "rejected": "b"},
            {"prompt": "q", "chosen": "a", "rejected": "b", "round": 5},
        ],
    )
    assert [(c.chosen, c.tie, c.rater) for c in found] == [("answer 1", False, "ann"), ("answer 1", True, ""), ("a", False, "")]
    assert all(c.labeler == "preferences-file" and c.generation == 0 for c in found)


def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path):
    config = LabelerConfig(kind="preferences-file", path=str(tmp_path / "round-{round}.jsonl"))
    with pytest.raises(WaitingForLabels, match="round-3.jsonl"):
        compare_by_file(samples(1), config, 0, 3, tmp_path)
    with pytest.raises(WaitingForLabels, match="no comparison for this round"):
        by_file(tmp_path / "l.jsonl", [{"chosen_id": "x", "rejected_id": "y"}])


@pytest.mark.parametrize("row", [{"chosen_id": "s0-1", "rejected_id": "s1-1"}, {"chosen": "a"}, ["list"]])
def test_wrong_rows_of_a_file_are_named(tmp_path, row):
    with pytest.raises(UserError, match="line 1"):
        by_file(tmp_path / "l.jsonl", [row])


def pair(generation=None, heldout=False, tie=False, i=0):
    return Comparison(f"p{i}", "q", "a", "b", generation=generation, heldout=heldout, tie=tie)


def test_mixtures():
    original = [pair(i=i) for i in range(10)]
    first = [pair(0, i=1), pair(0, heldout=True), pair(0, tie=True)]
    second = [pair(1, i=2), pair(1, i=3)]
    parts = {"original": 10, "round-000": 1, "round-001": 2}
    assert composition(mix(original, [first, second], RetrainConfig(data="concat"), 0)) == parts
    assert composition(mix(original, [first, second], RetrainConfig(data="last"), 0)) == {"round-001": 2}
    drawn = RetrainConfig(data="sample", mixture_pairs=5)
    assert len(mix(original, [first, second], drawn, 0)) == 5
    assert mix(original, [first, second], drawn, 0) == mix(original, [first, second], drawn, 0)


def test_groups_count_wins():
    rows = [
        Comparison("p", "q", "a", "b", generation=0),
        Comparison("p", "q", "a", "c", generation=0),
        Comparison("p", "q", "b", "c", generation=0, tie=True),
        Comparison("p", "q", "a", "b", generation=1),
    ]
    first, second = group_candidates(rows)
    assert [(c.completion, c.wins) for c in first.candidates] == [("a", 2.0), ("b", 0.5), ("c", 0.5)]
    assert len(second.candidates) == 2
