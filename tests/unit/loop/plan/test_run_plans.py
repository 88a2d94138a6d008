"""`loop plan run`: stages and rounds, the clock of a GPU, prices, and what a run could be traded against."""

import json
import math

import pytest

from configs.loading import PRESETS, load_config
from loop.commands.main import main
from loop.doctor.lengths import expected_lengths
from loop.doctor.machine import Machine
from loop.doctor.measuring import Measured
from loop.doctor.model import find_base_model
from loop.doctor.work import UNITS, count_pairs, labels_of_round, wins_of_round
from loop.keys import planned_keys
from loop.plan.gpus import GPUType
from loop.plan.running import STAGE_SECONDS, START_SECONDS, OnGPU, Rent, Subject, Timed, plan_stages, total
from loop.plan.trades import best_of_n_kl, break_even, plan_trades, twice_the_layers
from loop.store.base_cache import BaseCache

GIB = 2**30
MACHINE = Machine(cores=2, memory=24 * GIB, free_memory=20 * GIB, free_disk=100 * GIB)
ONE_SECOND = dict.fromkeys(UNITS, 1.0)
FREE = Rent(None, None)


@pytest.fixture(autouse=True)
def on_a_known_machine(monkeypatch, tmp_path):
    """A machine without a GPU, without a cached base, on which every unit takes a second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("loop.commands.plan.look_at_machine", lambda runs: MACHINE)
    monkeypatch.setattr("loop.doctor.measuring._ask_child", lambda *request: Measured(dict(ONE_SECOND), 0, 0, {}))


@pytest.fixture
def plan(capsys):
    """Run `loop plan run --json`; returns the object."""

    def run(*words):
        assert main(["plan", "run", *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def subject_of(*words):
    config = load_config(overrides=words)
    return Subject(config, find_base_model(config.base, download=False).shape, expected_lengths(config), count_pairs(config), False)


def seconds_of(rows, stage, number):
    (found,) = (row["seconds"] for row in rows if (row["stage"], row["round"]) == (stage, number))
    return found


def test_every_stage_of_the_run_is_planned_once():
    subject = subject_of("num_rounds=3", "labeler.pick=disagreement", "ppo.init=selected")
    rows = plan_stages(subject, Timed(subject, ONE_SECOND), FREE)
    names = [f"setup/{row['stage']}" if row["round"] is None else f"round-{row['round']:03d}/{row['stage']}" for row in rows]
    assert names == list(planned_keys(subject.config)) and len(names) == len(set(names))


def test_the_time_of_a_stage_is_what_it_does():
    """Units of a second. sft: 2,000 pairs by 64 are 32 steps, and 4 s for its trainer. policy: 80 updates, and 15 looks at 64
    answers each (one every tenth update, and seven more). These 960 are sampled, scored and read under two adapters, 128 at a time:
    7.5 + 7.5 + 15 = 30. From round 1 on, 80 x 64 responses, 256 of the reference and those 960 are also read twice for the features, and
    the 256 are sampled: 84 + 15 + 2 = 101 more."""
    subject = subject_of("num_rounds=2")
    rows = plan_stages(subject, Timed(subject, ONE_SECOND), FREE)
    assert seconds_of(rows, "sft", None) == 32 + 4 + STAGE_SECONDS
    assert seconds_of(rows, "policy", 0) == 80 + 30 + STAGE_SECONDS
    assert seconds_of(rows, "policy", 1) == pytest.approx(80 + 30 + 101 + STAGE_SECONDS)
    assert seconds_of(rows, "keep", 1) == seconds_of(rows, "label", 0) == STAGE_SECONDS
    assert seconds_of(rows, "reward", 0) > 250 > seconds_of(rows, "reward", 1)  # later rounds take the retrained one
    whole = total(rows, subject, FREE, program_bytes=7)
    assert whole["wall_seconds"] == pytest.approx(sum(row["seconds"] for row in rows) + START_SECONDS["ray"])
    # 450 prompts with 4 pairs each; a tenth of that against the SFT policy, and in round 1 as many against the policy of round 0
    assert whole["labels"] == 2 * 450 * 4 + 180 + 2 * 180 and whole["price"] is None
    assert whole["memory_bytes"] == max(row["memory_bytes"] or 0 for row in rows) + 7


def test_workers_share_the_work_and_all_of_them_are_paid():
    """A second of work and a start of 18 s each: with 2 workers half the work, but twice the hours of starting."""
    one, two = subject_of(), subject_of("runtime.workers=2")
    rent = Rent(hour=3600.0, label=0.5)  # a second costs 1
    rows = plan_stages(one, Timed(one, ONE_SECOND), rent)
    work = sum(row["seconds"] for row in rows)
    alone, both = (total(rows, subject, rent, 0) for subject in (one, two))
    assert alone["wall_seconds"] == pytest.approx(work + 18) and both["wall_seconds"] == pytest.approx(work / 2 + 18)
    assert both["price"] == pytest.approx(work + 36 + 0.5 * both["labels"])


def test_a_cached_base_costs_nothing():
    subject = subject_of()
    before = plan_stages(subject, Timed(subject, ONE_SECOND), FREE)
    assert seconds_of(before, "base", None) == 300 + STAGE_SECONDS  # 300 steps
    BaseCache(planned_keys(subject.config)["setup/base"]).folder.mkdir(parents=True)
    after = plan_stages(subject, Timed(subject, ONE_SECOND), FREE)
    assert seconds_of(after, "base", None) == 0.0


def test_comparisons_of_policies():
    """A fifth of 450 x 4 pairs, half of them against each of two opponents. Round 0 has one."""
    assert [wins_of_round(load_config(), number) for number in range(3)] == [180, 360, 360]
    assert wins_of_round(load_config(overrides=["labeler.win_rate_fraction=0"]), 1) == 0


def test_labels_of_a_round():
    assert labels_of_round(load_config()) == 450 * 4
    assert labels_of_round(load_config(overrides=["sample.num_completions=2"])) == 450  # there is one pair of two completions
    # 360 prompts are not held out, and have 300 pairs by budget; 90 are, with 4 each
    assert labels_of_round(load_config(overrides=["labeler.budget=300"])) == 300 + 90 * 4


def test_what_a_reward_model_is_retrained_on():
    """2,000 pairs and 0.8 x 1,800 labels of a round, in batches of 16, twice; `max_pairs` limits them, `last` leaves out the rest."""

    def steps(number, *words):
        subject = subject_of("num_rounds=2", *words)
        rows = plan_stages(subject, Timed(subject, dict.fromkeys(UNITS, 0.0) | {"reward": 1.0}), FREE)
        return seconds_of(rows, "retrain", number) - STAGE_SECONDS - 4

    assert steps(0) == steps(1) == 2 * 2000 / 16
    assert (steps(0, "retrain.max_pairs=null"), steps(1, "retrain.max_pairs=null")) == (2 * 3440 / 16, 2 * 4880 / 16)
    assert steps(1, "retrain.data=last") == 2 * 1440 / 16


def test_dpo_takes_the_place_of_ppo():
    """2,000 pairs twice in steps of 16 pairs, and their reference in passes of 128 rows."""
    subject = subject_of("trainer=dpo", "num_rounds=1")
    rows = plan_stages(subject, Timed(subject, ONE_SECOND), FREE)
    assert seconds_of(rows, "policy", 0) == pytest.approx(2 * 2000 / 16 + 2 * 2000 / 128 + 4 + STAGE_SECONDS)


def test_the_clock_of_a_gpu():
    """10^12 operations a second at a half, and 10^9 bytes a second at 0.6: each token of a response reads all weights once."""
    subject = subject_of("generation.batch_size=32")
    gpu = GPUType(tflops={"float32": 1.0}, bandwidth=1.0, memory=1.0, hour=1.0)
    found, flops = OnGPU(gpu, 0.5).seconds(subject), subject.flops()
    assert found["reward"] == pytest.approx(flops["reward"] / 0.5e12)
    reading = 32 * subject.shape.parameters * 4 / 0.6e9  # the longest response has 32 tokens
    assert found["sample"] == pytest.approx(flops["sample"] / 0.5e12 + reading)
    assert found["policy"] == pytest.approx(flops["policy"] / 0.5e12 + 2 * reading)  # 64 responses, 32 at a time


def test_trades_change_what_they_say():
    subject = subject_of("num_rounds=2", "labeler.budget=300")
    rows = {row["name"]: row for row in plan_trades(subject, Timed(subject, ONE_SECOND), Rent(1.0, 0.1), 0, n=16)}
    plain, more, labels, larger, best = rows.values()
    # a round later than the first: 300 + 90 x 4 pairs, and a fifth of the budget of 300 for win rates
    assert more["rounds"] == 3 and more["labels"] == plain["labels"] + 660 + 60 and more["seconds"] > plain["seconds"]
    assert labels["labels"] == 2 * plain["labels"] and labels["rounds"] == 2
    assert labels["price"] - plain["price"] > 0.1 * plain["labels"]
    # 3 layers more: 4 x 128 x 128 weights of attention, 3 x 128 x 384 of the MLP, and two norms each
    assert larger["params"] - plain["params"] == 3 * (4 * 128 * 128 + 3 * 128 * 384 + 2 * 128)
    assert larger["seconds"] > plain["seconds"] and larger["memory_bytes"] > plain["memory_bytes"]
    assert (best["labels"], best["rounds"]) == (0, 0) and best["seconds"] < plain["seconds"]
    # 1,000 answers, 128 at a time, against 16,000 and their scores
    assert plain["use_seconds"] == pytest.approx(1000 / 128) and best["use_seconds"] == pytest.approx(2 * 16_000 / 128)
    answers = break_even(list(rows.values()))
    assert plain["seconds"] + answers * 1 / 128 == pytest.approx(best["seconds"] + answers * 2 * 16 / 128)


def test_a_base_of_twice_the_layers_keeps_its_config_where_it_is_not_trained_here():
    subject = subject_of("base=openai-community/gpt2", "data.max_completion_tokens=32")
    larger = twice_the_layers(subject)
    assert larger.config == subject.config and larger.shape.layers == 24


def test_how_far_best_of_n_moves():
    assert best_of_n_kl(1) == 0 and best_of_n_kl(2) == pytest.approx(math.log(2) - 0.5)


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_can_be_planned_on_a_gpu(preset, capsys):
    assert main(["plan", "run", preset, "--gpu", "a100-80gb", "--label-price", "0.05"]) == 0
    out = capsys.readouterr().out
    for words in ("in all: ", "policy", "before round 0", "round 1", "one more round", "best of 16, no PPO", "not measured on a GPU"):
        assert words in out
    assert "warning" not in out


def test_a_plan_for_this_machine_is_timed(plan, capsys):
    found = plan("embedded", "--rounds", "3", "--hour-price", "0.1")
    assert len({row["round"] for row in found["stages"]}) == 4 and found["total"]["price"] > 0
    assert found["assumptions"]["times_from"].startswith("a few steps on this machine")
    assert found["total"]["price"] == pytest.approx(0.1 * found["total"]["seconds"] / 3600)
    assert main(["plan", "run", "8b-4bit"]) == 2 and "cannot be timed" in capsys.readouterr().err
    assert main(["plan", "run", "8b-4bit", "--gpu", "t4"]) == 0
    out = capsys.readouterr().out
    assert "labels have no price (--label-price)" in out


def test_many_rounds_are_shortened_and_what_does_not_fit_is_a_warning(capsys):
    assert main(["plan", "run", "thai", "--rounds", "20", "--gpu", "t4", "base.dtype=float32", "ppo.micro_batch_size=64"]) == 0
    out = capsys.readouterr().out
    assert "round 3 " in out and "round 4 " not in out and "round 19" in out
    assert "  warning: the " in out and "it fits with" in out
