"""The stage `policy` with a guard, on a tiny model that learns to cheat at once: what it writes, and that a kill changes nothing."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from configs.schema import RunConfig
from configs.views import visible
from loop.round import POLICY_WITHOUT_FEATURES
from loop.stages import STAGES, Context, guarding
from loop.store.measures import WARNINGS, find_measure
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from rewards import overoptimization
from rewards.comparisons import Comparison, PromptRecord, write_jsonl
from rewards.overoptimization import Limits
from rewards.scoring import Scorer
from tests.conftest import perturb
from tests.unit.policies.test_checkpoints import fresh_backbone

PPO = {"num_updates": 8, "batch_size": 16, "learning_rate": 0.05, "kl_coefficient": 1e-6, "evaluate_every": 4, "evaluate_prompts": 8}


class Killed(BaseException):
    """As SIGKILL would: nothing in the stage catches it."""


@pytest.fixture(autouse=True)
def alarmed_at_once(monkeypatch):
    """Any KL divergence is too much, and any score too high. So the alarm rises in the first look, after two updates."""
    monkeypatch.setattr(overoptimization, "WHILE_TRAINING", Limits(kl_per_token=0.0, scores_above=-1.0))
    monkeypatch.setattr(guarding, "KL_STEP", math.inf)


@pytest.fixture
def stage(tmp_path):
    """Makes the policy of round 0 with these settings of PPO, each time on a new backbone. Returns its metrics and its directory."""
    for name in ("prompts", "heldout_prompts"):
        write_jsonl(tmp_path / f"{name}.jsonl", [PromptRecord(f"{name}-{i}", f"{i} mangoes?") for i in range(20)])
    write_jsonl(tmp_path / "heldout_pairs.jsonl", [Comparison(f"p{i}", "mango?", f"yellow {i % 7}", f"green {i % 5}") for i in range(20)])
    backbone = fresh_backbone()
    for seed, name in enumerate(("sft", "reward")):
        backbone.add_adapter(name)
        perturb(backbone, name, seed=seed)
        backbone.save_adapter(name, tmp_path / name)
    scorer = Scorer(backbone, "reward", torch.randn(1, backbone.hidden_size, generator=torch.Generator().manual_seed(0)))
    (tmp_path / "scorer").mkdir()
    scorer.save(tmp_path / "scorer")

    def run(name, kill_after=None, **settings):
        config = RunConfig.model_validate({"data": "pairs.jsonl", "labeler": {"kind": "judge"}, "ppo": PPO | settings} | JUDGE)
        folder = tmp_path / name / "output"
        folder.mkdir(parents=True, exist_ok=True)

        def report(done, total, metrics=None, texts=(), warning=""):
            if done == kill_after:
                raise Killed

        made = fresh_backbone()
        inputs = {"base": tmp_path, "data": tmp_path, "sft": tmp_path / "sft", "rewards": [tmp_path / "scorer"]}
        context = Context(
            POLICY_WITHOUT_FEATURES.name,
            0,
            visible(config, POLICY_WITHOUT_FEATURES.visible),
            inputs,
            folder,
            Checkpoints(tmp_path / name / "checkpoints", seconds=0.0),
            report if kill_after else report_nothing,
            get_backbone=lambda folder: made,
        )
        return STAGES[POLICY_WITHOUT_FEATURES.name](context), folder

    return run


JUDGE = {"judge": {"url": "http://127.0.0.1:1/v1", "model": "x"}, "generation": {"max_new_tokens": 8}}


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_warn_changes_nothing_but_says_so(stage):
    metrics, folder = stage("warn")
    bare, bare_folder = stage("bare", evaluate_every=0)
    assert same(weights(folder), weights(bare_folder))
    assert (folder / "metrics.jsonl").read_bytes() == (bare_folder / "metrics.jsonl").read_bytes()
    assert not (bare_folder / "heldout.jsonl").exists() and WARNINGS not in bare and "heldout_look" not in bare
    rows = rows_of(folder / "heldout.jsonl")
    assert [row["update"] for row in rows] == [2, 4, 8] and rows[-1]["alarm"]
    assert all(row["signs"]["kl"]["value"] == pytest.approx(row["kl"] / row["length"]) for row in rows)
    assert all(row["signs"]["weak_penalty"]["limit"] == PPO["kl_coefficient"] for row in rows)
    assert metrics["alarm_update"] == 2 and "policy_update" not in metrics
    assert metrics[WARNINGS][0].startswith("the alarm rose after update 2 of 8, and PPO went on: the policy ")
    assert all(find_measure(name) for name in metrics)


def test_stop_and_best_end_the_training(stage):
    """`stop` gives the policy of the update at which the alarm rose. `best` has no look without an alarm, so it goes back to the start."""
    stopped, stop_folder = stage("stop", guard="stop")
    assert stopped["updates"] == 2 == stopped["policy_update"]
    best, best_folder = stage("best", guard="best")
    assert best["updates"] == 2 and best["policy_update"] == 0
    assert not same(weights(stop_folder), weights(best_folder)) and same(weights(best_folder), weights(stop_folder.parents[1] / "sft"))
    assert rows_of(stop_folder / "metrics.jsonl") == rows_of(best_folder / "metrics.jsonl")
    assert "and the policy is that after update 0" in best[WARNINGS][0]


@pytest.mark.parametrize("guard", ["stop", "best"])
def test_killed_anywhere_and_resumed(stage, guard):
    """Killed before each update is saved. At last the stage is asked once more, when only the alarm is left to act on."""
    expected, whole = stage("whole", guard=guard)
    for update in range(1, expected["updates"] + 1):
        with pytest.raises(Killed):
            stage("killed", kill_after=update, guard=guard)
    metrics, folder = stage("killed", guard=guard)
    again, _ = stage("killed", guard=guard)  # what is on disk holds the alarm, so no update is done any more
    for name in ("adapter_model.safetensors", "metrics.jsonl", "heldout.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    for made in (metrics, again):
        assert {k: v for k, v in made.items() if k != "memory"} == {k: v for k, v in expected.items() if k != "memory"}
