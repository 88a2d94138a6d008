"""Labelers, the mixture and candidate groups: plain data in, plain data out."""

import math
import random

import pytest

from configs.schema import LabelerConfig, RetrainConfig
from rewards.comparisons import Comparison, Sample, group_candidates
from rewards.data.splits import Split
from rewards.labelers.labelers import bernoulli, compare_by_scores
from rewards.replay import Mixture, composition, mix

SPLIT = Split(seed=0, heldout_fraction=0.2)


def samples(num_prompts=200, n=4):
    return [Sample(f"s{p}-{k}", f"p{p}", f"prompt {p}", f"answer {k}", True, 0, k) for p in range(num_prompts) for k in range(n)]


def test_the_law_of_the_labeler():
    # P(a beats b) at difference 1 is 1 / (1 + e^-1) = 0.7311; 20,000 draws have a standard error of 0.0031.
    rng = random.Random(0)
    assert sum(bernoulli(1.0, rng) for _ in range(20_000)) / 20_000 == pytest.approx(1 / (1 + math.exp(-1)), abs=0.012)


def test_comparisons_by_score():
    found = compare_by_scores(samples(), {s.id: 100.0 * s.k for s in samples()}, LabelerConfig(pairs_per_prompt=3), 0, SPLIT)
    assert len(found) == 600
    assert all(c.chosen > c.rejected and c.generation == 0 for c in found)
    assert all(c.heldout == SPLIT.holds_out(c.prompt) for c in found)
    # A share of 0.2 of 200 prompts has a standard error of 0.028.
    assert 0.12 < len({c.prompt_id for c in found if c.heldout}) / 200 < 0.28
    assert found == compare_by_scores(samples(), {s.id: 100.0 * s.k for s in samples()}, LabelerConfig(pairs_per_prompt=3), 0, SPLIT)


def test_equal_completions_are_not_compared():
    same = [Sample(f"s{k}", "p", "q", "one answer", True, 0, k) for k in range(4)]
    assert compare_by_scores(same, {s.id: 0.0 for s in same}, LabelerConfig(), 0, SPLIT) == []


def pair(generation=None, heldout=False, tie=False, i=0):
    return Comparison(f"p{i}", "q", "a", "b", generation=generation, heldout=heldout, tie=tie)


def test_mixtures(tmp_path):
    original = [pair(i=i) for i in range(10)]
    first = [pair(0, i=1), pair(0, heldout=True), pair(0, tie=True)]
    second = [pair(1, i=2), pair(1, i=3)]

    def rows(**settings):
        """Out of the record, as whoever reads the run's files later has them. A round more, as a run that went on has, changes nothing."""
        recorded = mix(original, [first, second], RetrainConfig(**settings), 0)
        recorded.write(tmp_path / "mixture.json")
        again = Mixture.read(tmp_path / "mixture.json")
        assert again == recorded
        assert again.rows(original, [first, second, [pair(2)]]) == recorded.rows(original, [first, second])
        return recorded.rows(original, [first, second])

    usable = [*original, first[0], *second]
    assert rows(data="concat") == usable
    assert composition(usable) == {"original": 10, "round-000": 1, "round-001": 2}
    assert rows(data="last") == second
    drawn = rows(data="sample", mixture_pairs=5)
    assert len(drawn) == 5 and [row for row in usable if row in drawn] == drawn
    assert rows(data="sample", mixture_pairs=99) == usable


@pytest.mark.parametrize(
    ("settings", "most"), [({"data": "concat"}, 100), ({"data": "last"}, 100), ({"data": "sample", "mixture_pairs": 50}, 500)]
)
def test_the_record_of_a_mixture_does_not_grow_with_the_rounds(tmp_path, settings, most):
    """Two hundred rounds of a hundred rows each. A drawn row costs its number: at most five digits and ", ", so 50 x 7 and the names."""
    by_generation = [[pair(generation, i=i) for i in range(100)] for generation in range(200)]
    mix([pair(i=i) for i in range(100)], by_generation, RetrainConfig(**settings), 0).write(tmp_path / "mixture.json")
    assert (tmp_path / "mixture.json").stat().st_size < most


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


def test_equal_completions_are_one_candidate():
    """One label names samples, the other brings their texts; a completion that was cut off is another candidate."""
    rows = [
        Comparison("p", "q", "a", "b", generation=0, chosen_id="1", rejected_id="2"),
        Comparison("p", "q", "a", "b", generation=0),
        Comparison("p", "q", "a", "b", generation=0, rejected_finished=False),
    ]
    (group,) = group_candidates(rows)
    assert [(c.completion, c.finished, c.wins) for c in group.candidates] == [("a", True, 3.0), ("b", True, 0.0), ("b", False, 0.0)]
