"""Means and their standard errors: paired if two measurements are of the same items, by prompt if items share a prompt."""

import math

import pytest

from loop.store.measures import headline
from rewards.comparisons import Comparison
from rewards.measurements import Measurement, ends, over_updates, summarize
from rewards.reward_model import outcomes, shortest


def test_the_mean_of_independent_values_by_hand():
    # 1, 2, 3: mean 2, variance (1 + 0 + 1) / 2 = 1, error sqrt(1 / 3).
    assert summarize([1.0, 2.0, 3.0]) == {"mean": 2.0, "standard_error": pytest.approx(math.sqrt(1 / 3)), "count": 3}


def test_one_unit_has_no_error():
    """0 would say that the mean is certain."""
    assert summarize([1.0]) == {"mean": 1.0, "standard_error": None, "count": 1}
    assert Measurement([1.0, 0.0], ["p", "p"]).mean() == {"mean": 0.5, "standard_error": None, "count": 2}


def test_items_of_one_prompt_are_not_independent():
    # Two prompts, each with two items that agree: the mean is 0.5. Deviations summed by prompt: +1 and -1.
    # Error: sqrt((1 + 1) * 2 / 1) / 4 = 0.5, as of two items. Taken for four items it would be sqrt(4 * 0.25 / 3 / 4) = 0.29.
    together = Measurement([1.0, 1.0, 0.0, 0.0], ["p", "p", "q", "q"]).accuracy()
    assert together == {"accuracy": 0.5, "standard_error": 0.5, "pairs": 4}
    assert summarize([1.0, 1.0, 0.0, 0.0])["standard_error"] == pytest.approx(math.sqrt(1 / 12))


def test_a_difference_is_paired():
    # New is old + 1, but for one of three prompts + 4: differences 1, 1, 4. Mean 2, variance (1 + 1 + 4) / 2 = 3, error 1.
    old = Measurement([0.0, 10.0, 20.0], ["p", "q", "r"])
    new = Measurement([1.0, 11.0, 24.0], ["p", "q", "r"])
    assert (new - old).mean() == {"mean": 2.0, "standard_error": pytest.approx(1.0), "count": 3}
    assert new.mean()["standard_error"] > 5
    with pytest.raises(ValueError, match="different items"):
        new - Measurement([0.0, 10.0, 20.0], ["p", "r", "q"])


def test_scores_over_some_updates_by_hand():
    # Means 1 and 2 with errors 0.3 and 0.4: the mean is 1.5, its error sqrt(0.09 + 0.16) / 2 = 0.25.
    log = [{"s": 1.0, "s_standard_error": 0.3}, {"s": 2.0, "s_standard_error": 0.4}]
    assert over_updates(log, "s") == {"mean": 1.5, "standard_error": pytest.approx(0.25), "updates": 2}


@pytest.mark.parametrize(("updates", "each"), [(40, 5), (10, 5), (3, 1), (1, 1)])
def test_the_first_and_the_last_updates_are_different_ones(updates, each):
    log = [{"update": float(i)} for i in range(updates)]
    assert ends(log) == (log[:each], log[updates - each :])


def test_outcomes_by_hand():
    """The shorter wins in the first pair, not in the second, the third have one length, and nobody won the fourth."""
    rows = [
        Comparison("p", "q", "a", "bb"),
        Comparison("p", "q", "aa", "b"),
        Comparison("r", "q", "a", "b"),
        Comparison("r", "q", "a", "b", tie=True),
    ]
    assert outcomes(shortest, rows) == Measurement([1.0, 0.0, 0.5], ["p", "p", "r"])


def test_the_terminal_shows_differences_with_their_sign_and_error():
    better = {"mean": 0.374, "standard_error": 0.081, "count": 512}
    assert headline("evaluate", {"gold_over_sft": better}) == "gold_over_sft +0.374 ± 0.081"
    worse = {"mean": -0.012, "standard_error": 0.02, "count": 90}
    right = {"accuracy": 0.75, "standard_error": 0.02, "pairs": 90}
    judged = {kind: {"top1": right, "pairwise": right, "over_reward_model": {"top1": better}} for kind in ("features", "rules")}
    assert headline("select", {"judged": judged, "judged_before": {}}) == "judged features 0.750 ± 0.020; rules 0.750 ± 0.020"
    assert headline("evaluate", {"best_of": {"chosen": better, "random": worse}}) == "best_of chosen 0.37 ± 0.08; random -0.01 ± 0.02"
    assert headline("retrain", {"accuracy_fresh_gain": {"mean": 0.25, "standard_error": None, "count": 1}}) == "accuracy_fresh_gain +0.250"
    updates = {"mean": 0.5, "standard_error": 0.04, "updates": 5}
    assert headline("policy", {"objective/scores_last_updates": updates}) == "scores_last_updates 0.50 ± 0.04"


def test_the_terminal_does_not_show_scores_of_different_reward_models_side_by_side():
    assert headline("evaluate", {"proxy_score": {"mean": 0.5, "standard_error": 0.1, "count": 9}}) == ""
