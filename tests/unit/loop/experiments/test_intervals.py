"""Student's t against published tables, and paired differences against numbers worked out by hand."""

import math

import pytest

from loop.experiments.intervals import paired, t_probability, t_quantile

PUBLISHED = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228, 21: 2.080, 30: 2.042, 60: 2.000, 120: 1.980}
"""Two-sided 95 % points of Student's t by degrees of freedom: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2."""


@pytest.mark.parametrize("degrees", PUBLISHED)
def test_the_quantiles_are_those_of_published_tables(degrees):
    assert round(t_quantile(degrees), 3) == PUBLISHED[degrees]


def test_the_probability_is_exact_where_it_has_a_simple_form():
    """1 degree of freedom: 2/pi atan(t). 2 degrees: t / sqrt(t^2 + 2)."""
    for t in (0.1, 1.0, 5.0):
        assert t_probability(t, 1) == pytest.approx(2 / math.pi * math.atan(t))
        assert t_probability(t, 2) == pytest.approx(t / math.sqrt(t * t + 2))


def test_a_paired_difference():
    """Differences 0.1, 0.3, 0.5: mean 0.3, standard deviation 0.2, error 0.2 / sqrt(3) = 0.11547. With t = 4.30265 for two degrees
    of freedom the interval is 0.3 -+ 0.49683. Seed 3 is only on one side, so it does not count."""
    found = paired({0: 2.0, 1: 2.3, 2: 2.6, 3: 9.0}, {2: 2.1, 1: 2.0, 0: 1.9})
    assert found is not None
    assert (found.mean, found.standard_error) == pytest.approx((0.3, 0.11547), abs=1e-5)
    assert (found.low, found.high) == pytest.approx((-0.19683, 0.79683), abs=1e-5)
    assert (found.count, found.positive) == (3, 3)


def test_one_seed_has_no_interval_and_no_seed_no_difference():
    found = paired({0: 1.0}, {0: 3.0})
    assert found is not None and (found.mean, found.standard_error, found.low, found.high) == (-2.0, None, None, None)
    assert (found.count, found.positive) == (1, 0)
    assert paired({0: 1.0}, {1: 1.0}) is None
