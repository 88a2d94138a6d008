"""What the story of a run says. Each expectation follows from the figures that the test gives the run."""

import pytest

from loop.report.signs import checks, signs, verdict
from loop.report.story import better, cheating, ship, tell
from loop.report.tables import verdicts
from tests.unit.loop.report.made import accuracy, make_run, summary


def test_a_run_that_gets_better_says_by_how_much(tmp_path):
    """Gold rises from 1 to 3 with a standard error of 0.05: the interval is 2 ± 1.96 x 0.05 = 1.90 to 2.10."""
    answer = better(make_run(tmp_path / "run"))
    assert answer.headline == "Yes: +2.00 in true reward" and answer.tone == "good"
    assert "1.00 after SFT, 3.00 after round 1" in answer.lines[0] and "+1.90 to +2.10" in answer.lines[0]


@pytest.mark.parametrize(("gain", "word", "tone"), [(0.05, "Not clearly", "warn"), (-0.5, "No, worse", "bad")])
def test_a_gain_that_is_not_clear_is_not_praised(tmp_path, gain, word, tone):
    """0.05 is one standard error above zero, and -0.5 is ten below."""
    answer = better(make_run(tmp_path / "run", golds=(1 + gain,)))
    assert answer.headline.startswith(word) and answer.tone == tone


def test_without_gold_the_win_rate_decides(tmp_path):
    """0.6 ± 1.96 x 0.02 = 56 % to 64 %, all above one half."""
    gone = {"gold": None, "gold_over_sft": None}
    run = make_run(tmp_path / "run", golds=(2.0,), extra=gone | {"win_rate": {"sft": accuracy(0.6)}})
    assert better(run).headline == "Yes: preferred in 60%" and "56% to 64%" in better(run).lines[0]
    assert ship(run).headline == "Round 0"


def test_a_win_rate_beside_gold_says_of_how_many(tmp_path):
    answer = better(make_run(tmp_path / "run", extra={"win_rate": {"sft": accuracy(0.6)}}))
    assert answer.lines[1] == "It is preferred to the SFT policy in 60% (95% interval 56% to 64%) of 300 comparisons."


def win_rate(mean, low, high):
    """A win rate as `evaluate` has it, with Wilson's interval."""
    return {"mean": mean, "standard_error": 0.02, "count": 300, "low": low, "high": high}


def test_a_win_rate_has_its_own_interval(tmp_path):
    """The mean and 1.96 standard errors give 51 % to 58 %, and the interval that the stage has computed 49 % to 59 %."""
    gone = {"gold": None, "gold_over_sft": None}
    run = make_run(tmp_path / "run", golds=(2.0,), extra=gone | {"win_rate": {"sft": win_rate(0.545, 0.49, 0.59)}})
    assert better(run).tone == "warn" and "49% to 59%" in better(run).lines[0]


def verdict_of(word, **signs):
    rows = {name: {"value": value, "limit": 0.05, "fires": value > 0.05} for name, value in signs.items()}
    return {"overoptimization": {"verdict": word, "signs": rows}}


@pytest.mark.parametrize(
    ("word", "headline", "tone"), [("none", "No sign of it", "good"), ("suspected", "Suspected", "warn"), ("clear", "Yes, clearly", "bad")]
)
def test_the_runs_own_verdict_comes_first(tmp_path, word, headline, tone):
    run = make_run(tmp_path / "run", extra=verdict_of(word, rule_shift=0.25, length=0.01))
    answer = cheating(run)
    assert (answer.headline, answer.tone) == (headline, tone)
    assert answer.lines[0] == f"The run's own rule says {word}: rule shift 0.25 (limit 0.05)."
    assert verdicts(run).rows == [["verdict", word], ["rule shift", "fires: 0.25 / 0.05"], ["length", "0.01 / 0.05"]]


def test_signs_count_where_the_runs_own_rule_says_none(tmp_path):
    run = make_run(tmp_path / "run", extra=verdict_of("none") | {"kl": summary(30.0)})
    assert cheating(run).headline == "1 sign of it" and cheating(run).lines[0] == "The run's own rule says none."


@pytest.mark.parametrize("found", [None, 7, {"verdict": "new"}, {"verdict": "clear", "signs": {"kl": {"value": None}, "x": 3}}])
def test_a_verdict_of_another_version_is_left_out(tmp_path, found):
    own = verdict(make_run(tmp_path / "run", extra={"overoptimization": found}), 1)
    assert own is None or own.signs == {}


def test_the_reward_models_own_score_proves_nothing(tmp_path):
    run = make_run(tmp_path / "run", golds=(2.0,), extra={"gold": None, "gold_over_sft": None})
    assert better(run).tone == "plain" and ship(run).tone == "plain"


def test_a_healthy_run_shows_no_sign(tmp_path):
    run = make_run(tmp_path / "run")
    assert signs(run, 1) == [] and cheating(run).headline == "No sign of it"


def test_only_what_was_measured_is_said_to_be_looked_at(tmp_path):
    """The made run has no `best_of`, and here no gold either."""
    run = make_run(tmp_path / "run", golds=(2.0,), extra={"gold": None, "gold_over_sft": None})
    assert [check.measure for check in checks(run, 0)] == ["rule rates", "length", "KL"]
    assert "Looked at in round 0: rule rates, length, KL." in cheating(run).lines
    nothing = make_run(tmp_path / "other", golds=(2.0,), extra={"gold_over_sft": None, "defects": None, "length": None, "kl": None})
    assert cheating(nothing).headline == "Cannot be said"


def test_signs_of_an_earlier_round_are_not_forgotten(tmp_path):
    """Round 0 is 2 units worse than SFT with the proxy gain above zero; round 1 is better again."""
    run = make_run(tmp_path / "run", golds=(-1.0, 3.0))
    assert cheating(run).tone == "good" and "There were signs in round 0 too." in cheating(run).lines


@pytest.mark.parametrize(
    ("extra", "words", "is_hard"),
    [
        ({"gold_over_last": summary(-0.3)}, "True reward fell", True),
        ({"gold_over_sft": summary(0.02)}, "has not risen", True),
        ({"best_of": {"random": summary(2.0), "reward_model": summary(1.5)}}, "worse than chance", True),
        ({"defects": {"repetition": 0.5}, "length": summary(10, count=400)}, "repetition fires in 50%", False),
        ({"length": summary(20.0)}, "2.0 times as long", False),
        ({"kl": summary(30.0)}, "30 nats", False),
    ],
)
def test_each_sign_is_seen(tmp_path, extra, words, is_hard):
    (sign,) = signs(make_run(tmp_path / "run", extra=extra), 1)
    assert words in sign.text and sign.is_hard == is_hard


def test_of_many_signs_the_first_screen_has_four(tmp_path):
    """The true reward fell, the reward model chooses badly, two rules rose, the answers are longer, and KL is high; losses come first."""
    risen = {"gold_over_last": summary(-0.3), "best_of": {"random": summary(2.0), "reward_model": summary(1.5)}, "kl": summary(30.0)}
    risen |= {"defects": {"empty": 0.5, "repetition": 0.5}, "length": summary(20, count=400)}
    run = make_run(tmp_path / "run", extra=risen)
    lines = cheating(run).lines
    assert len(signs(run, 1)) == 6 and lines[0].startswith("True reward fell") and "chooses worse" in lines[1]
    assert lines[4] == "And 2 more signs: see Signs of cheating below."


def test_a_better_round_before_the_last_is_named(tmp_path):
    answer = better(make_run(tmp_path / "run", golds=(3.0, 2.0)))
    assert answer.lines[1] == "It was higher before: 3.00 after round 0."
    assert not any("before" in line for line in better(make_run(tmp_path / "other", golds=(2.0, 3.0))).lines)


def test_nothing_is_less_than_zero_percent(tmp_path):
    """Wilson's interval of no win in five begins at zero, or a rounding error below it."""
    run = make_run(tmp_path / "run", extra={"win_rate": {"sft": win_rate(0.0, -1e-17, 0.434)}})
    assert "in 0% (95% interval 0% to 43%) of" in better(run).lines[-1]


def test_a_rule_that_rises_by_chance_is_no_sign(tmp_path):
    """4 answers: from 2 % to 25 % is one answer, and its standard error is sqrt(0.25 x 0.75 / 4 + 0.02 x 0.98 / 4) = 0.23."""
    run = make_run(tmp_path / "run", extra={"defects": {"repetition": 0.25}})
    assert signs(run, 1) == []


def test_the_round_to_ship_need_not_be_the_last(tmp_path):
    run = make_run(tmp_path / "run", golds=(3.0, 2.0))
    assert ship(run).headline == "Round 0" and "Next comes round 1" in ship(run).lines[1]
    assert "the highest of 3 noisy figures" in ship(run).lines[3]  # SFT and two rounds


def test_a_run_that_only_got_worse_ships_nothing(tmp_path):
    assert ship(make_run(tmp_path / "run", golds=(0.5,))).headline == "The SFT policy"


def test_a_round_that_is_not_clearly_better_is_shipped_with_a_warning(tmp_path):
    """0.48 to 0.56 contains one half."""
    gone = {"gold": None, "gold_over_sft": None}
    run = make_run(tmp_path / "run", golds=(2.0,), extra=gone | {"win_rate": {"sft": accuracy(0.52)}})
    assert (ship(run).headline, ship(run).tone) == ("Round 0", "warn")


def test_a_run_without_a_finished_round_says_so(tmp_path):
    assert {answer.headline for answer in tell(make_run(tmp_path / "run", golds=()))} == {"Not known yet"}
