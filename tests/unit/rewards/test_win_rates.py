"""Win rates: outcomes, intervals, length control, agreement, and calibration against the embedded world's true reward."""

import math
import random

import pytest
from sklearn.linear_model import LogisticRegression

from configs.schema import DataConfig
from rewards.comparisons import Comparison, Sample, answer_id, parse_answer_id, round_of, win_probability
from rewards.data.preference_data import load_preference_data
from rewards.labelers import registry as labelers
from rewards.win_rates import RIDGE, length_controlled, measure, outcomes, win_rate
from rewards.world.gold import gold_scores
from tests.unit.rewards.labelers.test_labelers import task

ROUND = 2


def row(prompt, own_wins, other=None, rater="", tie=False, own="own", text="other"):
    """A comparison of round 2's policy with another on a prompt. other: the round of that policy; None is the SFT policy."""
    sides = [(answer_id(ROUND, ROUND, prompt), own), (answer_id(ROUND, other, prompt), text)]
    (chosen_id, chosen), (rejected_id, rejected) = sides if own_wins else sides[::-1]
    return Comparison(prompt, "q", chosen, rejected, tie=tie, chosen_id=chosen_id, rejected_id=rejected_id, rater=rater)


def test_ids_of_answers():
    for policy in (None, 2, 1):
        assert parse_answer_id(answer_id(2, policy, "a-b-7")) == (2, policy)
        assert round_of(answer_id(2, policy, "a-b-7")) == 2
    for other in ("2-2-p-0", "2-None-p-answer", "x-sft-p-answer", "2-sft-answer"):
        assert parse_answer_id(other) is None


def test_outcomes_and_rates():
    """Against SFT: a win, a loss, a tie, and a pair on which two of three raters prefer the policy: 1, 0, 1/2 and 2/3 of 4. Against the
    last round: one win. Lengths are in characters: "own" has 3, "other" 5."""
    wins = [row("a", True), row("b", False), row("c", False, tie=True), row("a", True, other=1)]
    wins += [row("d", rater != "cid", rater=rater) for rater in ("ann", "bob", "cid")]
    by_opponent = outcomes(wins)
    assert [one.won for one in by_opponent["sft"]] == [1.0, 0.0, 0.5, pytest.approx(2 / 3)]
    assert {one.longer for one in by_opponent["sft"]} == {-2} and list(by_opponent) == ["sft", "last"]
    found = measure(wins)
    assert found["win_rate"]["sft"]["mean"] == pytest.approx((1 + 0 + 0.5 + 2 / 3) / 4) and found["win_rate"]["sft"]["count"] == 4
    assert found["win_rate"]["last"]["mean"] == 1.0 and found["win_ties"] == {"sft": 0.25, "last": 0.0}
    assert found["win_agreement"]["raters"] == 3 and found["win_agreement"]["pairs"] == 1
    assert measure([]) == {} and "win_agreement" not in measure(wins[:4])


def test_wilsons_interval():
    """8 of 10: Wilson's interval is 0.4902 to 0.9433 (Newcombe, Statistics in Medicine 17 (1998), 857-872, method 3, by its formula). It
    does not shrink to a point where all are won: 10 of 10 gives 10 / (10 + 1.96^2) = 0.7225 to 1."""
    found = win_rate([1.0] * 8 + [0.0] * 2, [str(i) for i in range(10)])
    assert (found["low"], found["high"]) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert found["standard_error"] == pytest.approx(math.sqrt(0.8 * 0.2 / 9))
    found = win_rate([1.0] * 10, [str(i) for i in range(10)])
    assert (found["low"], found["high"]) == (pytest.approx(0.7225, abs=1e-4), pytest.approx(1.0))


def test_length_control_is_a_logistic_fit():
    """The same numbers as scikit-learn's ridge regression, whose C is the inverse of the penalty. It knows no ties, so there is none."""
    rng = random.Random(0)
    longer = [rng.gauss(20, 30) for _ in range(300)]
    won = [float(rng.random() < win_probability(0.02 * d - 0.3)) for d in longer]
    spread = (sum(d * d for d in longer) / 300 - (sum(longer) / 300) ** 2) ** 0.5
    x = [[1.0, math.tanh(d / spread)] for d in longer]
    reference = LogisticRegression(C=1 / RIDGE, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, won)
    found = length_controlled(won, longer)
    assert found["mean"] == pytest.approx(win_probability(reference.coef_[0][0]), abs=1e-5)
    assert found["low"] < found["mean"] < found["high"] and found["mean"] < sum(won) / 300 - 0.05


def test_length_control_where_lengths_say_nothing():
    """Equal lengths leave the win rate: 70 of 100, moved by the penalty by less than 0.001. The fit exists for wins only and for ties."""
    found = length_controlled([1.0] * 70 + [0.0] * 30, [0] * 100)
    assert found["mean"] == pytest.approx(0.7, abs=1e-3)
    assert found["standard_error"] == pytest.approx(math.sqrt(0.7 * 0.3 / 100), abs=1e-3)
    assert 0.95 < length_controlled([1.0] * 50, list(range(50)))["mean"] < 1.0
    assert length_controlled([0.5] * 20, list(range(20)))["mean"] == pytest.approx(0.5)


def test_the_win_rate_is_calibrated_against_gold():
    """60 rounds of 180 pairs, judged by the labeler of the embedded world: the win rate beside the one that gold expects of the same pairs.

    A policy that writes the better answer of two more often, against one that draws either. An interval of 95 % should hold gold's figure
    in 19 of 20 rounds, which are 57 of 60.
    """
    pairs = list({pair.prompt_id: pair for pair in load_preference_data(DataConfig(), 0).heldout}.values())[:180]
    assert len(pairs) == 180
    covered = 0
    for number in range(60):
        rng, answers = random.Random(number), []
        for pair in pairs:
            for policy, share in ((0, 0.8), (None, 0.5)):
                text = pair.chosen if rng.random() < share else pair.rejected
                answers.append(Sample(answer_id(0, policy, pair.prompt_id), pair.prompt_id, pair.prompt, text, True, policy, 0))
        asked = labelers.LabelTask(**vars(task([], kind="gold")) | {"answers": answers, "seed": number})
        found = measure(labelers.label(asked).wins)["win_rate"]["sft"]
        assert found["count"] == 180
        gold = gold_scores(answers)
        own = {a.prompt_id: gold[a.id] for a in answers if a.generation == 0}
        expected = [win_probability(own[a.prompt_id] - gold[a.id]) for a in answers if a.generation is None]
        covered += found["low"] <= sum(expected) / len(expected) <= found["high"]
    assert covered >= 57
