"""The mixture of comparisons that a reward model is retrained on, and its record."""

from dataclasses import replace

import pytest

from configs import UserError, load_config
from configs.schema import RetrainConfig
from rewards.comparisons import Comparison
from rewards.replay import Mixture, composition, divide, mix, shares


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
    assert rows(data="concat", max_pairs=None) == usable
    assert composition(usable) == {"original": 10, "round-000": 1, "round-001": 2}
    assert rows(data="last") == second
    drawn = rows(data="sample", mixture_pairs=5)
    assert len(drawn) == 5 and [row for row in usable if row in drawn] == drawn
    assert rows(data="sample", mixture_pairs=99) == usable


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"data": "concat", "max_pairs": None}, 100),
        ({"data": "last"}, 100),
        ({"data": "sample", "mixture_pairs": 50}, 500),
        ({"data": "concat", "max_pairs": 50}, 500),
    ],
)
def test_the_record_of_a_mixture_does_not_grow_with_the_rounds(tmp_path, settings, most):
    """Two hundred rounds of a hundred rows each. A drawn row costs its number: at most five digits and ", ", so 50 x 7 and the names."""
    by_generation = [[pair(generation, i=i) for i in range(100)] for generation in range(200)]
    mix([pair(i=i) for i in range(100)], by_generation, RetrainConfig(**settings), 0).write(tmp_path / "mixture.json")
    assert (tmp_path / "mixture.json").stat().st_size < most


def bounded(**settings):
    return RetrainConfig(**{"max_pairs": 100, "original_fraction": 0.5, "fresh_fraction": 0.3, "half_life": 1.0} | settings)


@pytest.mark.parametrize(
    ("sizes", "counts"),
    [
        # Original 50, this round 30, earlier rounds 20. Their weights are 60 x 1/4, 60 x 1/2 and 60 x 1, that is 1 : 2 : 4 of 20:
        # 2.86, 5.71 and 11.43. Rounded down, 2 are missing, which go to the largest remainders: 3, 6 and 11.
        ([90, 60, 60, 60, 60], [50, 3, 6, 11, 30]),
        # Round 0 has no earlier rounds. Their 20 are divided as 0.5 : 0.3, which is 12.5 and 7.5: 62.5 and 37.5. The first of two equal
        # remainders gets the one that is missing.
        ([90, 90], [63, 37]),
        # The original pairs are 10 instead of 50. The other 90 are divided as 0.3 : 0.2: this round 54, earlier rounds 36.
        ([10, 90, 90], [10, 36, 54]),
        # This round has 5 rows and the last one 8. 87 are left for the original pairs, which have 90.
        ([90, 8, 5], [87, 8, 5]),
        # There are just 100 rows, or fewer: all of them.
        ([40, 30, 30], [40, 30, 30]),
        ([40, 0, 3], [40, 0, 3]),
    ],
)
def test_a_bounded_mixture_has_the_stated_shares(sizes, counts):
    assert shares(sizes, 100, bounded()) == counts


def test_an_old_round_counts_half_as_much_after_each_half_life():
    """Half-life 2, five earlier rounds of 1000 rows. The ages are 4, 3, 2, 1 and 0, the weights 1/4, 0.3536, 1/2, 0.7071 and 1, which is
    2.8107 in all. Of 20 rows: 1.78, 2.52, 3.56, 5.03 and 7.12. Rounded down they are 18; the remainders .78 and .56 get one more."""
    assert shares([1000] * 7, 100, bounded(half_life=2.0))[1:-1] == [2, 2, 4, 5, 7]


def test_a_share_of_zero_leaves_a_part_out_even_if_the_others_have_too_few_rows():
    assert shares([90, 20, 30], 100, bounded(original_fraction=0.0)) == [0, 20, 30]
    assert shares([40, 90, 30], 100, bounded(original_fraction=0.7)) == [40, 0, 30]  # 0.7 + 0.3 leaves nothing for earlier rounds
    assert divide(10, [0.0, 0.0], [5, 5]) == [0, 0]


@pytest.mark.parametrize("total", range(1, 130, 7))
def test_the_limit_is_met_exactly_wherever_there_are_enough_rows(total):
    for sizes in ([50, 20, 20, 20], [3, 0, 100], [0, 90, 1, 0], [30, 40]):
        counts = shares(sizes, total, bounded())
        assert sum(counts) == min(total, sum(sizes)) and all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))


def test_a_bounded_mixture_trains_on_no_tie_and_nothing_held_out(tmp_path):
    """A third of each part cannot be used. 30 usable rows in each part, of which 10 are original, 6 of this round, and 4 of the earlier
    ones: 1.33 and 2.67 by the half-life, so 1 and 3."""

    def part(generation):
        rows = [pair(generation, i=i) for i in range(45)]
        return [replace(row, heldout=i % 6 == 0, tie=i % 6 == 3) for i, row in enumerate(rows)]

    original, by_round = part(None), [part(0), part(1), part(2)]
    found = [mix(original, by_round, bounded(max_pairs=20), seed) for seed in range(30)]
    assert found[0] == mix(original, by_round, bounded(max_pairs=20), 0) != found[1]
    for mixture in found:
        rows = mixture.rows(original, by_round)
        assert composition(rows) == {"original": 10, "round-000": 1, "round-001": 3, "round-002": 6}
        assert len({(row.generation, row.prompt_id) for row in rows}) == 20 and not any(row.heldout or row.tie for row in rows)
        mixture.write(tmp_path / "mixture.json")
        assert Mixture.read(tmp_path / "mixture.json").rows(original, by_round) == rows
    drawn = {(row.generation, row.prompt_id) for mixture in found for row in mixture.rows(original, by_round)}
    # An original row is drawn with probability 1/3: 30 x (2/3)^30 = 2e-4 that one of them is in none of the 30 mixtures.
    assert {name for generation, name in drawn if generation is None} == {f"p{i}" for i in range(45) if i % 3}


def test_a_limit_that_is_not_reached_changes_nothing():
    original, by_round = [pair(i=i) for i in range(3)], [[pair(0)]]
    assert mix(original, by_round, bounded(), 0) == mix(original, by_round, RetrainConfig(max_pairs=None), 0) == Mixture(True, 0, 0)


def test_fresh_are_the_comparisons_of_this_round_whoever_wrote_the_completions():
    """With `sample.earlier_fraction`, a round also compares completions of the last round's policy."""
    rows = mix([], [[pair(0, i=1)] * 9, [pair(0, i=2)] * 9], bounded(max_pairs=5, original_fraction=0.0, fresh_fraction=1.0), 0)
    assert {row.prompt_id for row in rows.rows([], [[pair(0, i=1)] * 9, [pair(0, i=2)] * 9])} == {"p2"}


@pytest.mark.parametrize("words", [("0.0", "0.0"), ("0.8", "0.3")])
def test_shares_that_do_not_fit_together_are_refused(words):
    settings = [f"retrain.{name}_fraction={word}" for name, word in zip(("original", "fresh"), words, strict=True)]
    with pytest.raises(UserError, match="retrain.original_fraction and retrain.fresh_fraction add up to"):
        load_config(overrides=settings)
    assert load_config(overrides=["retrain.original_fraction=0.7", "retrain.fresh_fraction=0.3"]).retrain.original_fraction == 0.7


def test_ties_are_trained_on_only_where_they_are_asked_for(tmp_path):
    original, by_round = (
        [pair(), replace(pair(i=1), tie=True)],
        [[replace(pair(0), tie=True), replace(pair(0, i=1), tie=True, heldout=True)]],
    )
    for config in (bounded(), RetrainConfig(max_pairs=None), RetrainConfig(data="sample")):
        assert len(mix(original, by_round, config, 0).rows(original, by_round)) == 1
        mixture = mix(original, by_round, config, 0, ties=True)
        mixture.write(tmp_path / "mixture.json")
        assert len(Mixture.read(tmp_path / "mixture.json").rows(original, by_round)) == 3
