"""A stage that is stopped after any step and resumed by a new process ends with the same bytes."""

import json

import pytest
import torch

from configs.errors import Stopped
from configs.pretraining import PMPConfig
from configs.schema import DPOConfig, LoraSection, RewardConfig, SelectConfig, TrainerSection
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.dpo import train_dpo
from policies.reporting import report_nothing
from policies.sft import train_sft
from rewards.comparisons import Candidate, CandidateGroup, Comparison
from rewards.pretraining import train_preference_model
from rewards.reward_model import train_reward_model
from rewards.selectors.listwise import train_selector
from tests.conftest import make_causal_lm
from tests.unit.policies.test_ppo import PROMPTS, make_trainer


def fresh_backbone():
    model, tokenizer = make_causal_lm()
    return Backbone(model, tokenizer, LoraSection(rank=4, alpha=8), name="tiny")


def fit(kind, checkpoints, report):
    """Train one thing from the start on a new backbone. Returns the adapter's tensors and the log."""
    backbone = fresh_backbone()
    if kind.startswith("ppo"):
        _, value_model, *warms_up = kind.split("-")
        settings = {"value_warmup_updates": 2} if warms_up else {"kl_target": 1.0}
        trainer = make_trainer(backbone, value_model=value_model, num_epochs=1, **settings)
        log = trainer.train([PROMPTS] * 5, checkpoints, report)
        return backbone.adapter_state("policy") | {"head": trainer.value.head.weight.detach()}, log
    backbone.add_adapter("x", seed=1)
    if kind == "sft":
        examples = [([5, 6, 7 + i % 9], [8, 9 + i % 5, 1]) for i in range(40)]
        log = train_sft(backbone, "x", examples, TrainerSection(batch_size=8), checkpoints, 0, report)
        return backbone.adapter_state("x"), log
    if kind == "dpo":
        pairs = [([5, 6, 7 + i % 9], [8, 9 + i % 5, 1], [10 + i % 3, 1]) for i in range(40)]
        backbone.add_adapter("sft", copy_of="x")
        log = train_dpo(backbone, "x", pairs, DPOConfig(batch_size=8, num_epochs=1), checkpoints, 0, report)
        return backbone.adapter_state("x"), log
    if kind in ("reward", "pmp"):
        pairs = [Comparison(f"p{i}", f"mango {i}?", f"yellow {i % 7}", f"green {i % 5}") for i in range(40)]
        if kind == "pmp":
            settings = PMPConfig(batch_size=16, binarised=True)
            scorer, log = train_preference_model(backbone, "x", pairs, settings, checkpoints, 0, report)
        else:
            scorer, log = train_reward_model(backbone, "x", pairs, RewardConfig(batch_size=8, num_epochs=1), checkpoints, 0, report)
    else:
        groups = [CandidateGroup(f"p{i}", f"q {i}", [Candidate("yes", True, 2), Candidate("no", True, 1)]) for i in range(40)]
        config = SelectConfig(batch_size=8, num_epochs=1)
        scorer, log = train_selector(backbone, "x", groups, config, checkpoints, 0, report)
    return backbone.adapter_state("x") | {"head": scorer.head}, log


@pytest.mark.parametrize("kind", ["ppo-head", "ppo-adapter", "ppo-head-warmup", "sft", "dpo", "reward", "pmp", "select"])
def test_stopped_after_every_step_and_resumed(kind, tmp_path):
    """Stop after each of the first four of five steps, each time with a new backbone, and compare with one run without checkpoints."""
    expected, expected_log = fit(kind, Checkpoints(), report_nothing)
    stop, steps = tmp_path / "stop", []

    def report(done, total, metrics, texts=(), warning=""):
        steps.append(done)
        if done < 5:
            stop.touch()

    for _ in range(4):
        with pytest.raises(Stopped):
            fit(kind, Checkpoints(tmp_path / "checkpoints", seconds=1e6, stop=stop), report)
        stop.unlink()
    found, log = fit(kind, Checkpoints(tmp_path / "checkpoints", stop=stop), report)
    assert steps == [1, 2, 3, 4, 5]
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
    assert log == expected_log and len(log) == 5


def test_a_checkpoint_holds_what_is_trained_and_not_the_base(tmp_path):
    checkpoints = Checkpoints(tmp_path, seconds=0.0)
    fit("sft", checkpoints, report_nothing)
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["step-00000005"]
    base = sum(p.numel() * 4 for p in fresh_backbone().causal_lm.parameters())
    trained = (checkpoints.newest() / "checkpoint-5" / "trained.safetensors").stat().st_size
    assert trained < base / 3


def test_a_save_is_whole_or_absent(tmp_path):
    checkpoints = Checkpoints(tmp_path, seconds=0.0)
    with checkpoints.saving(1) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(RuntimeError, match="power"), checkpoints.saving(2) as folder:
        (folder / "a").write_text("2")
        raise RuntimeError("power cut")
    assert (Checkpoints(tmp_path).newest() / "a").read_text() == "1"
    with checkpoints.saving(3) as folder:
        (folder / "a").write_text("3")
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["step-00000003"]  # the torn one is gone as well


def test_half_removed_old_saves_are_not_taken_up(tmp_path):
    """After a kill during the removal of an old save, its remains are not found, because it is renamed first."""
    checkpoints = Checkpoints(tmp_path, seconds=0.0)
    with checkpoints.saving(1):
        pass
    (tmp_path / "train" / "step-00000001").rename(tmp_path / "train" / "gone-step-00000001")
    assert checkpoints.newest() is None
    with checkpoints.saving(2):
        pass
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["step-00000002"]


def test_finished_shards_are_not_computed_again(tmp_path):
    computed = []

    def double(part):
        computed.append(list(part))
        return [2 * item for item in part]

    items = list(range(10))
    assert Checkpoints(tmp_path).in_shards("x", items, 4, double) == [2 * i for i in items]
    assert computed == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    torn = tmp_path / "x" / "00000004-00000008.json"
    torn.write_text("[8, 1")
    assert Checkpoints(tmp_path).in_shards("x", items, 4, double) == [2 * i for i in items]
    assert computed[3:] == [[4, 5, 6, 7]]
    assert json.loads(torn.read_text()) == [8, 10, 12, 14]


def test_shards_of_another_size_are_not_mixed_up(tmp_path):
    """Ten items are in shards of 4, then of 2. The second shard has the items 4 to 7 in one case, and 2 and 3 in the other."""
    items = list(range(10))
    double = lambda part: [2 * item for item in part]  # noqa: E731
    assert Checkpoints(tmp_path).in_shards("x", items, 4, double) == [2 * i for i in items]
    computed = []
    again = Checkpoints(tmp_path).in_shards("x", items, 2, lambda part: computed.append(list(part)) or double(part))
    assert again == [2 * i for i in items]
    assert computed == [[0, 1], [2, 3], [4, 5], [6, 7]]  # items 8 and 9 were a shard of both sizes


def test_stopped_between_shards(tmp_path):
    stop = tmp_path / "stop"
    checkpoints = Checkpoints(tmp_path / "c", stop=stop)
    with pytest.raises(Stopped):
        checkpoints.in_shards("x", range(10), 2, lambda part: stop.touch() or list(part))
    assert len(list((tmp_path / "c" / "x").iterdir())) == 1


def test_saving_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    """A save takes 0.4 s at an interval of 5 s, so the next one comes after 0.4 / 0.02 = 20 s."""
    clock = [0.0]
    monkeypatch.setattr("policies.checkpoints.time.monotonic", lambda: clock[0])
    checkpoints = Checkpoints(tmp_path, seconds=5.0)
    assert not checkpoints.due()
    clock[0] = 5.0
    assert checkpoints.due()
    with checkpoints.saving(1):
        clock[0] = 5.4
    clock[0] = 25.3
    assert not checkpoints.due()
    clock[0] = 25.5
    assert checkpoints.due()
