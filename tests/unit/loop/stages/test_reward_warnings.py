"""The `reward` stage warns of a reward model that knows no more than a bag of words, in any round, and of no other."""

import pytest
import torch

from configs.schema import RunConfig
from configs.views import visible
from loop.round import REWARD
from loop.stages import STAGES as FUNCTIONS
from loop.stages import Context
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from rewards.comparisons import Comparison, write_jsonl
from rewards.scoring import Scorer
from tests.conftest import perturb


@pytest.fixture
def judge(backbone, tmp_path):
    """Runs the stage of round 1 with a reward model that nobody has trained, on given training and held-out pairs."""
    data, retrained = tmp_path / "data", tmp_path / "retrained"
    data.mkdir()
    backbone.add_adapter("sft")
    backbone.save_adapter("sft", tmp_path / "sft")
    backbone.add_adapter("random")
    perturb(backbone, "random")
    retrained.mkdir()
    Scorer(backbone, "random", torch.ones(1, backbone.hidden_size)).save(retrained)

    def run(training, heldout):
        write_jsonl(data / "pairs.jsonl", training)
        write_jsonl(data / "heldout_pairs.jsonl", heldout)
        inputs = {"data": data, "base": tmp_path, "sft": tmp_path / "sft", "retrained": retrained}
        config = visible(RunConfig(), REWARD.visible)
        (tmp_path / "out").mkdir()
        return FUNCTIONS["reward"](
            Context("reward", 1, config, inputs, tmp_path / "out", Checkpoints(), report_nothing, lambda _: backbone)
        )

    return run


def make_pairs(number, start=0, by_prompt=False):
    """The chosen answer says "yes", as long as "nay". `by_prompt`: at odd prompts the other one is chosen, so words alone tell nothing."""
    pairs = []
    for i in range(start, start + number):
        good, bad = ("nay", "yes") if by_prompt and i % 2 else ("yes", "nay")
        pairs.append(Comparison(f"p{i}", f"question {i}", f"{good} {i % 7}", f"{bad} {i % 7}"))
    return pairs


def test_it_warns_of_a_reward_model_that_a_bag_of_words_beats(judge):
    metrics = judge(make_pairs(60), make_pairs(40, start=100))
    assert metrics["bag_of_words"]["accuracy"] == 1.0 and metrics["shorter_wins"]["accuracy"] == 0.5
    (warning,) = metrics["warnings"]
    assert warning.startswith("the reward model (accuracy 0.") and "a bag of words (1.000 ± 0.000)" in warning
    assert "PPO" in warning and "more pairs" in warning


def test_it_does_not_warn_of_a_reward_model_that_beats_both(judge, monkeypatch):
    """The reward model, replaced by one that reads the prompt too, is always right. Words and lengths are right in half of the pairs.

    56 and 42 are multiples of 14, so each word occurs as often on one side as on the other.
    """

    def oracle(self, answers):
        return [float(("yes" in answer.completion) == (int(answer.prompt.split()[1]) % 2 == 0)) for answer in answers]

    monkeypatch.setattr(Scorer, "score_answers", oracle)
    metrics = judge(make_pairs(56, by_prompt=True), make_pairs(42, start=100, by_prompt=True))
    assert metrics["accuracy_heldout"]["accuracy"] == 1.0 and metrics["bag_of_words"]["accuracy"] == 0.5
    assert metrics["accuracy_over_bag_of_words"]["mean"] == 0.5 and "warnings" not in metrics
