"""The mixture of comparisons that a reward model is retrained on, and its record."""

import pytest

from configs.schema import RetrainConfig
from rewards.comparisons import Comparison
from rewards.replay import Mixture, composition, mix


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
