"""Summaries of all forms are read by one set of rules."""

import pytest

from loop.store.estimates import Estimate, estimate, estimates
from rewards.measurements import summarize


def test_a_number_is_an_estimate_without_an_error():
    assert estimate(2) == Estimate(2.0)
    assert all(estimate(value) is None for value in (None, "text", True, float("nan"), {}, {"mean": None}, {"standard_error": 0.1}))


def test_the_names_of_the_mean_and_of_the_count():
    assert estimate(summarize([1.0])) == Estimate(1.0, None, 1)
    assert estimate({"accuracy": 0.5, "standard_error": 0.1, "pairs": 9}) == Estimate(0.5, 0.1, 9)
    assert estimate({"mean": 0.5, "standard_error": 0.1, "updates": 5}) == Estimate(0.5, 0.1, 5)
    assert estimate({"pairwise": {"accuracy": 0.5, "standard_error": None, "pairs": 9}, "top1": {}}) == Estimate(0.5, None, 9)
    assert list(estimates({"sft": summarize([1.0, 2.0]), "note": "text", "share": 0.25})) == ["sft", "share"] and estimates(None) == {}


def test_the_interval_is_the_normal_one_unless_the_summary_has_its_own():
    """0.5 with the error 0.1: 0.5 -+ 1.96 x 0.1 = 0.304 to 0.696."""
    normal = estimate({"accuracy": 0.5, "standard_error": 0.1, "pairs": 9})
    assert normal.interval == (pytest.approx(0.304, abs=1e-4), pytest.approx(0.696, abs=1e-4))
    assert normal.is_above(0.3) and not normal.is_above(0.31) and normal.is_below(0.7) and not normal.is_below(0.69)
    own = estimate({"mean": 0.9, "standard_error": 0.1, "count": 10, "low": 0.6, "high": 1.0})
    assert own.interval == (0.6, 1.0) and own.is_above(0.5)
    alone = estimate({"mean": 0.9, "standard_error": None, "count": 1})
    assert alone.interval is None and not alone.is_above(0.0) and not alone.is_below(1.0)


def test_texts():
    found = Estimate(0.5, 0.1)
    assert found.with_error("+.2f") == "+0.50 ± 0.10" and found.with_interval() == "0.50 (95% interval 0.30 to 0.70)"
    assert found.with_interval(".0%") == "50% (95% interval 30% to 70%)" and found.interval_text("+.1f") == "+0.3 to +0.7"
    alone = Estimate(0.5)
    assert (alone.with_error(), alone.with_interval(), alone.interval_text()) == ("0.50", "0.50", "")
