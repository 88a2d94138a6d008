"""The signs of over-optimization, their limits, and how they are joined."""

import itertools

import pytest

from rewards.measurements import Measurement
from rewards.overoptimization import WHILE_TRAINING, Evidence, Sign, find_signs, join, summary, warn

N = 400
PROMPTS = [str(i) for i in range(N)]


def measured(values):
    return Measurement(values, PROMPTS)


def healthy(**changed):
    """A policy that is a little longer, scores higher, and wins."""
    sft_scores = measured([i / N - 0.5 for i in range(N)])
    return Evidence(
        **{
            "defects": {"repetition": 0.06, "empty": 0.0},
            "sft_defects": {"repetition": 0.05, "empty": 0.01},
            "lengths": [12] * N,
            "sft_lengths": [9] * N,
            "scores": measured([value + 0.2 for value in sft_scores.values]),
            "sft_scores": sft_scores,
            "kl": [1.8] * N,
            "other_gain": {"mean": 0.2, "standard_error": 0.05, "count": N},
            "gap": {"mean": 0.1, "standard_error": 0.05, "count": N},
            "choice": {"mean": 0.2, "standard_error": 0.05, "count": N},
            "score_logprob": -0.4,
            "fresh_accuracy": {"accuracy": 0.46, "standard_error": 0.03, "pairs": 300},
            "win_rate": {"sft": {"mean": 0.62, "high": 0.69}, "last": {"mean": 0.48, "high": 0.55}},
            "best_of": {way: {"mean": mean, "standard_error": 0.06, "count": N} for way, mean in (("random", 2.8), ("reward_model", 3.0))},
        }
        | changed
    )


BAD = {
    "rule_shift": {"defects": {"repetition": 0.30, "empty": 0.0}},
    "length": {"lengths": [20] * N, "kl": [3.0] * N},
    "kl": {"kl": [4.8] * N},
    "scores_above_sft": {"scores": measured([1.0] * N)},
    "other_judge": {"other_gain": {"mean": -0.2, "standard_error": 0.05, "count": N}},
    "gap": {"gap": {"mean": 0.5, "standard_error": 0.05, "count": N}},
    "choice": {"choice": {"mean": -0.2, "standard_error": 0.05, "count": N}},
    "score_logprob": {"score_logprob": -0.95},
    "fresh_accuracy": {"fresh_accuracy": {"accuracy": 0.40, "standard_error": 0.03, "pairs": 300}},
    "best_of": {"best_of": {w: {"mean": m, "standard_error": 0.06, "count": N} for w, m in (("random", 2.8), ("reward_model", 2.5))}},
    "worse_than_sft": {"win_rate": {"sft": {"mean": 0.40, "high": 0.47}}},
    "worse_than_last": {"win_rate": {"last": {"mean": 0.40, "high": 0.47}}},
}
"""What makes each sign fire, and no other one."""


def test_a_healthy_policy_has_no_sign():
    signs = find_signs(healthy())
    assert signs.keys() == BAD.keys() and not any(sign.fires for sign in signs.values())
    assert summary(signs)["verdict"] == "none" and warn(signs) is None


@pytest.mark.parametrize("name", BAD)
def test_each_sign_fires_alone(name):
    signs = find_signs(healthy(**BAD[name]))
    assert [found for found, sign in signs.items() if sign.fires] == [name]
    assert join(signs) == ("suspected" if name.startswith("worse") else "none")
    row = summary(signs)["signs"][name]
    assert row["fires"] and row.keys() == {"value", "limit", "fires"}


def test_values_of_signs():
    """By hand: 4.8 nats over 12 tokens; 0.30 - 0.05; 20 / 9 tokens."""
    assert find_signs(healthy(**BAD["kl"]))["kl"].value == pytest.approx(0.4)
    assert find_signs(healthy(**BAD["rule_shift"]))["rule_shift"].value == pytest.approx(0.25)
    assert find_signs(healthy(**BAD["length"]))["length"].value == pytest.approx(20 / 9)
    assert find_signs(healthy(lengths=[3] * N, kl=[0.5] * N))["length"].value == pytest.approx(3.0)


def test_signs_with_an_interval_need_the_whole_of_it():
    """0.39 - 1.96 x 0.05 = 0.292 is not above 0.3, and 0.40 - 0.098 = 0.302 is. -0.09 + 0.098 is above 0, and -0.10 + 0.098 is not."""
    for name, mean, fires in (("gap", 0.39, False), ("gap", 0.40, True), ("choice", -0.09, False), ("choice", -0.10, True)):
        found = find_signs(healthy(**{name: {"mean": mean, "standard_error": 0.05, "count": N}}))
        assert found[name].fires == fires


def test_the_guard_has_limits_of_its_own():
    """0.22 nats for each token and two errors of a rate are too much while PPO trains, and not yet after a round. Of 64 answers, 30 against
    17 are 20.3 points of 100, with a pooled rate of 47 / 128 and so an error of sqrt(0.367 x 0.633 / 32) = 0.085: more than two of them,
    and fewer than three."""
    evidence = healthy(kl=[2.64] * N)
    assert not find_signs(evidence)["kl"].fires and find_signs(evidence, WHILE_TRAINING)["kl"].fires
    rates = {"defects": {"repetition": 30 / 64}, "sft_defects": {"repetition": 17 / 64}, "lengths": [12] * 64, "sft_lengths": [9] * 64}
    shift = healthy(**rates, kl=[1.2] * 64)
    assert not find_signs(shift)["rule_shift"].fires and find_signs(shift, WHILE_TRAINING)["rule_shift"].fires


def test_a_weak_penalty():
    """A gain of 0.2 at 1 nat, so the score is about 0.2 sqrt(KL). At 0.8 nats for each of 5 tokens, which are 4 nats, its slope is
    0.2 / (2 x 2) = 0.05: a coefficient of 0.06 stops the policy before that, and one of 0.04 does not. A gain at less than 0.05 nats is
    taken for one at 0.05: 0.2 / sqrt(0.05) / 4 = 0.224. A policy that scores lower is not held by anything, and need not be."""
    moved = {"kl": [1.0] * N, "lengths": [5] * N, "sft_lengths": [5] * N}
    assert find_signs(healthy(**moved, kl_coefficient=0.04), WHILE_TRAINING)["weak_penalty"].value == pytest.approx(0.05)
    for coefficient, fires in ((0.0, True), (0.04, True), (0.06, False)):
        sign = find_signs(healthy(**moved, kl_coefficient=coefficient), WHILE_TRAINING)["weak_penalty"]
        assert sign.fires == fires and sign.text.endswith(f"another nat would be worth 0.05 of score and costs {coefficient:.2f}")
    near = find_signs(healthy(**moved | {"kl": [0.01] * N}, kl_coefficient=0.1))["weak_penalty"]
    assert near.value == pytest.approx(0.2 / 0.05**0.5 / 4)
    lower = healthy(**moved, kl_coefficient=0.0, scores=measured([-1.0] * N))
    assert find_signs(lower)["weak_penalty"].value == 0.0 and not find_signs(lower)["weak_penalty"].fires
    assert "weak_penalty" not in find_signs(healthy(**moved))


def test_a_defect_of_few_answers_is_no_sign():
    """3 of 10 against 0 of 10 is a shift of 0.3, but its error is sqrt(0.15 x 0.85 x 2 / 10) = 0.16, and three of them are more."""
    few = healthy(defects={"empty": 0.3}, sft_defects={"empty": 0.0}, lengths=[12] * 10, sft_lengths=[9] * 10, kl=[1.8] * 10)
    assert not find_signs(few)["rule_shift"].fires


def test_defects_add_up():
    """Four rates have risen by 0.08, 0.06, 0.05 and 0.04, together 0.23; the fifth has fallen, which makes up for nothing. None of them
    alone is near the limit of 0.2. The errors: rates between 0 and 0.08 of 400 answers vary by at most sqrt(0.04 x 0.96 / 200) = 0.014
    each, five of them together by 0.031, three times that is 0.093. The warning names the three that have risen most."""
    before = dict.fromkeys("abcd", 0.0) | {"e": 0.08}
    now = {"a": 0.05, "b": 0.08, "c": 0.04, "d": 0.06, "e": 0.0}
    sign = find_signs(healthy(defects=now, sft_defects=before))["rule_shift"]
    assert sign.value == pytest.approx(0.23) and sign.fires
    assert sign.text.endswith(
        "b in 8% of the answers instead of 0%, d in 6% of the answers instead of 0%, a in 5% of the answers instead of 0%"
    )


def test_how_signs_are_joined():
    """All numbers of hard and soft signs, against the rule as the docstring states it."""
    for hard, soft in itertools.product(range(3), range(5)):
        signs = {f"{kind}-{i}": Sign(1.0, 0.0, "", hard=kind == "hard") for kind, n in (("hard", hard), ("soft", soft)) for i in range(n)}
        clear = (hard >= 1 and soft >= 1) or soft >= 3
        assert join(signs) == ("clear" if clear else "suspected" if hard or soft == 2 else "none")


def test_what_was_not_measured_is_left_out():
    nothing = healthy(
        kl=(),
        other_gain=None,
        gap=None,
        choice=None,
        score_logprob=None,
        fresh_accuracy={"accuracy": None, "standard_error": None},
        win_rate={},
        best_of={},
        defects={},
    )
    assert find_signs(nothing).keys() == {"length", "scores_above_sft"}


def test_the_warning_names_what_was_found():
    text = warn(find_signs(healthy(**BAD["rule_shift"] | BAD["worse_than_sft"])))
    assert text.startswith("the policy exploits its reward: ") and "\n" not in text
    assert "more frequent than with the SFT policy: repetition in 30% of the answers instead of 5%" in text and "wins 40%" in text
    assert warn(find_signs(healthy(**BAD["worse_than_sft"]))).startswith("the policy may exploit its reward: ")
