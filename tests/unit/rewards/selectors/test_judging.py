"""How well a selector chooses, by hand."""

import pytest

from rewards.comparisons import Comparison
from rewards.selectors import group_samples
from rewards.selectors.judging import judge


class By:
    """A selector that scores texts by a function."""

    def __init__(self, value):
        self.value = value
        self.seen = []

    def score(self, groups):
        self.seen += groups
        return [[float(self.value(answer.completion)) for answer in group.answers] for group in groups]


ROWS = [
    Comparison("p", "q", "a", "b"),
    Comparison("p", "q", "a", "ccc"),
    Comparison("r", "s", "dd", "e"),
    Comparison("r", "s", "e", "dd"),
    Comparison("t", "u", "f", "g", tie=True),
]


def test_judging_by_hand():
    """Prompt p: a beats b and ccc. Its favorite by length is ccc, which has no win. Pairwise, a and b have one length (a half), and a is
    shorter than ccc (0). Prompt r: dd and e beat each other, so no candidate has more wins, and one of two pairs is right. The tie counts
    nowhere. So length has 0 of 1 in top 1, and (0.5 + 0 + 1 + 0) / 4 pairwise. The alphabet has a first: 1 of 1, and 2 + 1 of 4."""
    judged = judge({"longest": By(len), "reward-model": By(lambda text: -ord(text[0]))}, group_samples([], ROWS), ROWS)
    assert judged["longest"]["top1"] == {"accuracy": 0.0, "standard_error": None, "pairs": 1}
    assert (judged["longest"]["pairwise"]["accuracy"], judged["longest"]["pairwise"]["pairs"]) == (1.5 / 4, 4)
    assert judged["reward-model"]["top1"]["accuracy"] == 1.0 and judged["reward-model"]["pairwise"]["accuracy"] == 3 / 4
    # Differences by pair: -0.5 and -1 in p, 0 and 0 in r. Their mean is -0.375, the sums of deviations are -0.75 and 0.75.
    over = judged["longest"]["over_reward_model"]
    assert over["pairwise"]["mean"] == -0.375
    assert over["pairwise"]["standard_error"] == pytest.approx((2 * (2 * 0.75**2)) ** 0.5 / 4)
    assert "over_reward_model" not in judged["reward-model"]


def test_ties_between_favourites_are_not_broken_by_the_label():
    """By a constant, the three candidates of prompt p are all favorites, and only one of them, a, has the most wins: 1 of 3."""
    judged = judge({"random": By(lambda text: 0)}, group_samples([], ROWS), ROWS)
    assert judged["random"]["top1"]["accuracy"] == 1 / 3


def test_only_the_prompts_that_were_compared_are_scored_with_all_their_candidates():
    others = group_samples([], [*ROWS, Comparison("v", "w", "x", "y")])
    selector = By(len)
    judged = judge({"longest": selector}, others, ROWS[:1])
    assert [[answer.completion for answer in group.answers] for group in selector.seen] == [["a", "b", "ccc"]]
    assert judged["longest"]["pairwise"]["pairs"] == 1 and "over_reward_model" not in judged["longest"]


def test_without_comparisons_there_is_nothing_to_tell():
    assert judge({"longest": By(len)}, group_samples([], ROWS), []) == {}
