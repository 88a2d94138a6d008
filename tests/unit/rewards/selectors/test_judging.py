"""How well a selector chooses, by hand."""

import pytest

from rewards.comparisons import Comparison
from rewards.selectors.judging import judge_choosers, longest


def test_judging_choosers_by_hand():
    # Prompt p: a beats b, a beats c. Longest is "ccc": wrong in top 1; of its pairwise calls a>b is a tie of lengths (half),
    # a>c is wrong: 0.25. Chance in top 1 is one of three.
    rows = [Comparison("p", "q", "a", "b"), Comparison("p", "q", "a", "ccc")]
    judged = judge_choosers({"longest": longest}, rows)
    assert judged["longest"]["top1"]["accuracy"] == 0.0
    assert judged["longest"]["pairwise"]["accuracy"] == 0.25
    assert judged["random"] == {"top1": {"accuracy": pytest.approx(1 / 3), "standard_error": None, "pairs": 1}}
