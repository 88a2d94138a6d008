"""Which round is shipped, and what is said about it."""

import json

import pytest

from configs import UserError
from loop.promotion.choosing import Choice, check_round, choose_round
from loop.store.journal import Event, fold
from loop.store.layout import RunFolder


def summary(mean, error=0.1):
    return {"mean": mean, "standard_error": error, "count": 100}


def made(baseline, *rounds):
    """A run whose policies have these metrics."""
    events = [Event(event="run_started", num_rounds=len(rounds))]
    for number, metrics in [(None, baseline), *enumerate(rounds)]:
        stages = ("sft", "baseline") if number is None else ("policy", "evaluate")
        events += [Event(event="stage_committed", round=number, stage=stage, seconds=1.0, metrics=metrics) for stage in stages]
    return fold(events)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "x")


def write_gold(folder, stage, number, values):
    place = folder.stage(stage, number)
    place.mkdir(parents=True)
    rows = (json.dumps({"prompt_id": str(i), "gold": value}) for i, value in enumerate(values))
    (place / "measurements.jsonl").write_text("\n".join(rows) + "\n")


def test_the_round_with_the_highest_true_reward_is_chosen(folder):
    """Not the last one. Differences of the prompts: 1, 2, 3, so 2 on average, with a standard error of 1 / sqrt(3) = 0.577:
    2 - 1.96 x 0.577 = 0.87 and 2 + 1.96 x 0.577 = 3.13."""
    write_gold(folder, "evaluate", 1, [2.0, 3.0, 4.0])
    write_gold(folder, "evaluate", 0, [1.0, 1.0, 1.0])
    state = made({"gold": summary(0.5)}, {"gold": summary(1.0)}, {"gold": summary(3.0)}, {"gold": summary(0.9)})
    choice = choose_round(folder, state)
    assert choice.round == 1
    assert choice.lines == [
        "Round 1 has the highest true reward on 100 held-out prompts: 3.00 (95% interval 2.80 to 3.20).",
        "Next comes round 0 with 1.00 (95% interval 0.80 to 1.20).",
        "The difference, prompt by prompt, is 2.00 (95% interval 0.87 to 3.13), which is clear.",
    ]


def test_a_difference_that_may_be_chance_is_called_that(folder):
    """Differences 3, -1, 1: 1 on average, with a standard error of 2 / sqrt(3) = 1.15, so the interval holds 0."""
    write_gold(folder, "evaluate", 0, [3.0, 0.0, 2.0])
    write_gold(folder, "baseline", None, [0.0, 1.0, 1.0])
    lines = choose_round(folder, made({"gold": summary(0.7)}, {"gold": summary(1.7)})).lines
    assert "not clear: it may be chance" in lines[-1] and "Next comes the SFT policy" in lines[1]


def test_the_policy_that_the_run_started_from_may_be_the_best_one(folder):
    choice = choose_round(folder, made({"gold": summary(2.0)}, {"gold": summary(1.0)}))
    assert choice.round is None and "No round is better than the policy that it started from." in choice.lines


def test_without_a_true_reward_win_rates_decide(folder):
    def wins(mean):
        return {"win_rate": {"sft": summary(mean) | {"low": mean - 0.2, "high": mean + 0.1}}, "proxy_gain": summary(9 * (1 - mean))}

    choice = choose_round(folder, made({}, wins(0.7), wins(0.6)))
    assert choice.round == 0 and "win rate against the SFT policy" in choice.lines[0] and "0.50 to 0.80" in choice.lines[0]
    assert choose_round(folder, made({}, wins(0.5))).round is None  # no better than where it started
    assert choose_round(folder, made({}, wins(0.3), wins(0.4))) == Choice(
        None,
        [
            "No round wins more often than it loses against the SFT policy.",
            "Round 1 has the highest win rate against it: 0.40 (95% interval 0.20 to 0.50).",
        ],
    )


@pytest.mark.parametrize("line", ['{"prompt_id": ', '{"gold": 1.0}', "7"])
def test_a_damaged_line_of_measurements_is_one_message(folder, line):
    write_gold(folder, "evaluate", 0, [2.0, 3.0])
    write_gold(folder, "baseline", None, [1.0, 1.0])
    with (folder.stage("evaluate", 0) / "measurements.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match="the measurements have a damaged line") as error:
        choose_round(folder, made({"gold": summary(0.5)}, {"gold": summary(1.0)}))
    assert "round-000/evaluate" in error.value.where and "loop verify x" in error.value.to_do


@pytest.mark.parametrize(
    ("rounds", "message"),
    [
        ([{"proxy_gain": summary(2.0)}], "nothing tells the rounds apart"),
        ([{"gold": summary(2.0)}, {}], "nothing tells the rounds apart"),  # one round was not measured
        ([], "no round has been evaluated yet"),
    ],
)
def test_where_nothing_tells_rounds_apart_the_user_has_to_name_one(folder, rounds, message):
    with pytest.raises(UserError, match=message) as error:
        choose_round(folder, made({"gold": summary(0.0)}, *rounds))
    assert "loop promote x" in error.value.to_do


def test_a_round_can_be_named(folder):
    state = made({"gold": summary(2.0)}, {"gold": summary(1.0)})
    assert check_round(folder, state, 0).round == 0 and check_round(folder, state, None).round is None
    with pytest.raises(UserError, match="round 1 has no policy yet") as error:
        check_round(folder, state, 1)
    assert "the SFT policy, round 0" in error.value.to_do


def test_a_suspicion_of_the_evaluation_is_repeated(folder):
    signs = {"kl": {"fires": True}, "length": {"fires": False}, "rule_shift": {"fires": True}}
    state = made({}, {"overoptimization": {"verdict": "suspected", "signs": signs}}, {"overoptimization": {"verdict": "none", "signs": {}}})
    assert "over-optimization is suspected (signs: kl, rule_shift)" in check_round(folder, state, 0).lines[-1]
    assert len(check_round(folder, state, 1).lines) == 1
