"""How much a label of a pair is worth, by formulas that are worked out here."""

import math

import pytest

from rewards.selectors.worth import WORTH, closeness, disagreement, uncertainty

E = 1.0 / (1.0 + math.exp(-1.0))
"""sigmoid(1) = 0.7311. A member whose differences are 1 and -1 has a root mean square of 1, so they stay as they are."""


def entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_opposite_opinions_are_worth_most():
    """Pair 0: both expect E. The label tells nothing about who is right. Pair 1: one expects E, the other 1 - E: their mean is 1/2."""
    found = disagreement([[1.0, 1.0], [1.0, -1.0]])
    assert found == [pytest.approx(0.0, abs=1e-12), pytest.approx(math.log(2) - entropy(E))]


def test_uncertainty_is_high_where_all_call_a_pair_even():
    """The members' root mean squares are 1 / sqrt(2), so a difference of 1 becomes sqrt(2). An even pair has the entropy log 2."""
    found = uncertainty([[1.0, 0.0], [1.0, 0.0]])
    assert found == [pytest.approx(entropy(1 / (1 + math.exp(-math.sqrt(2))))), pytest.approx(math.log(2))]
    assert disagreement([[1.0, 0.0], [1.0, 0.0]]) == pytest.approx([0.0, 0.0], abs=1e-12)


def test_closeness_goes_by_the_first_member_only():
    assert closeness([[2.0, -0.5, 0.0], [0.0, 0.0, 9.0]]) == [-2.0, -0.5, 0.0]


def test_the_unit_of_a_members_scores_does_not_matter():
    """A member in log-odds, and the same one in hundredths, against another one."""
    member, other = [0.3, -2.0, 1.1], [1.0, 1.0, -0.2]
    for worth in (disagreement, uncertainty):
        assert worth([member, other]) == pytest.approx(worth([[100 * x for x in member], other]))


def test_a_member_without_an_opinion_and_no_pair_at_all():
    """Zeros stay zeros: sigmoid(0) = 1/2. No pair has no worth."""
    assert uncertainty([[0.0], [0.0]]) == [pytest.approx(math.log(2))]
    assert all(worth([[], []]) == [] for worth in WORTH.values())
