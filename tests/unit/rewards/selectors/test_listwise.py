"""The listwise selector on a tiny backbone."""

import pytest
import torch

from configs.schema import SelectConfig
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from rewards.comparisons import Candidate, CandidateGroup
from rewards.selectors.listwise import listwise_loss, train_selector
from tests.conftest import perturb


def test_the_listwise_loss_by_hand():
    # Group 0: scores 0, 0, targets 1, 0: ln 2. Group 1: scores 0, ln 3, targets 0.5, 0.5:
    # softmax 1/4, 3/4: -(ln 0.25 + ln 0.75) / 2. The loss is their mean.
    scores = torch.tensor([0.0, 0.0, 0.0, 3.0]).where(torch.tensor([True, True, True, False]), torch.tensor(3.0).log())
    loss = listwise_loss(scores, torch.tensor([0, 0, 1, 1]), torch.tensor([1.0, 0.0, 0.5, 0.5]))
    expected = (torch.tensor(2.0).log() - (torch.tensor(0.25).log() + torch.tensor(0.75).log()) / 2) / 2
    assert loss.item() == pytest.approx(expected.item())


def test_the_selector_learns_to_prefer(backbone, tmp_path):
    backbone.add_adapter("selector")
    perturb(backbone, "selector", 0.01)
    groups = [
        CandidateGroup(
            f"p{i}", f"mango {i}?", [Candidate("green", True, 0.0), Candidate("yellow", True, 2.0), Candidate("red 1", True, 1.0)]
        )
        for i in range(48)
    ]
    config = SelectConfig(learning_rate=1e-2, num_epochs=4, batch_size=8)
    scorer, log = train_selector(backbone, "selector", groups, config, Checkpoints(), 0, report_nothing)
    assert log[-1]["loss"] < log[0]["loss"] - 0.1
    assert scorer.score([backbone.tokenizer("mango 3?yellow")["input_ids"]]).isfinite().all()
