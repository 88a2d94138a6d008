"""DPO on a tiny backbone: the loss worked out by hand, what moves and what stays, and any micro batch computes the same."""

import math

import pytest
import torch

from configs.schema import DPOConfig
from policies.checkpoints import Checkpoints
from policies.dpo import train_dpo
from policies.reporting import report_nothing
from tests.conftest import perturb

END = 1
PAIRS = [([5, 6 + i % 3], [20 + i % 5, 30, END], [40 + i % 7, 50 + i % 2, 51, END][: 3 + i % 2]) for i in range(64)]
"""Chosen completions begin with one of the tokens 20 to 24, rejected ones with one of 40 to 46. Every second rejected one has no end."""


def train(backbone, pairs=PAIRS, **settings):
    """Train a copy of an SFT adapter that is not zero. Returns the log."""
    backbone.add_adapter("sft")
    perturb(backbone, "sft")
    backbone.add_adapter("policy", copy_of="sft")
    config = DPOConfig(**{"batch_size": 16, "num_epochs": 1, "learning_rate": 1e-2} | settings)
    return train_dpo(backbone, "policy", pairs, config, Checkpoints(), 0, report_nothing)


@torch.no_grad()
def logprob(backbone, adapter, prompt, completion):
    """The log-probability of a completion by transformers' own forward pass, one sequence at a time."""
    with backbone.role(adapter):
        logits = backbone.causal_lm(torch.tensor([[*prompt, *completion]])).logits[0].double()
    predicted = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return predicted.gather(-1, torch.tensor(completion)[:, None]).sum().item()


def margin(backbone, pair, adapter):
    prompt, chosen, rejected = pair
    return logprob(backbone, adapter, prompt, chosen) - logprob(backbone, adapter, prompt, rejected)


def test_it_learns_what_is_preferred_and_leaves_the_rest_alone(backbone):
    backbone.add_adapter("sft")
    backbone.add_adapter("policy")
    before = {name: p.detach().clone() for name, p in backbone.causal_lm.named_parameters() if "lora" not in name}
    log = train(backbone, num_epochs=4)
    assert log[-1]["loss"] < 0.3 < math.log(2) and log[-1]["rewards/accuracies"] == 1.0
    assert all(margin(backbone, pair, "policy") > margin(backbone, pair, "sft") for pair in PAIRS[:8])
    assert all(torch.equal(p, before[name]) for name, p in backbone.causal_lm.named_parameters() if name in before)
    sft = {name: p.clone() for name, p in backbone.adapter_state("sft").items()}
    backbone.add_adapter("sft")
    perturb(backbone, "sft")
    assert all(torch.equal(p, sft[name]) for name, p in backbone.adapter_state("sft").items())
    assert not any(p.requires_grad for p in backbone.causal_lm.parameters())


def test_the_loss_is_that_of_the_paper(backbone):
    """One batch, of a policy that is not the reference: the loss and the margin are computed again from transformers' logits in float64.

    One rejected completion has no token, so its log-probability is 0.
    """
    backbone.add_adapter("sft")
    perturb(backbone, "sft")
    backbone.add_adapter("policy", copy_of="sft")
    perturb(backbone, "policy", scale=0.05, seed=1)
    config, pairs = DPOConfig(batch_size=16, num_epochs=1, learning_rate=1e-12, beta=0.3), [*PAIRS[:15], ([5], [20, END], [])]
    margins = [0.3 * (margin(backbone, pair, "policy") - margin(backbone, pair, "sft")) for pair in pairs]
    (row,) = train_dpo(backbone, "policy", pairs, config, Checkpoints(), 0, report_nothing)
    assert max(map(abs, margins)) > 0.1
    assert row["loss"] == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins) / 16, abs=1e-4)
    assert row["rewards/margins"] == pytest.approx(sum(margins) / 16, abs=1e-4)
    assert row["rewards/accuracies"] == sum(m > 0 for m in margins) / 16


def test_the_first_loss_is_that_of_a_coin(backbone):
    """The policy is the reference, so every margin is 0 and the loss is log 2."""
    assert train(backbone, num_epochs=0.25)[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_micro_batches_change_nothing_but_rounding(backbone):
    whole = train(backbone, learning_rate=1e-3)
    weights = backbone.adapter_state("policy")
    parts = train(backbone, learning_rate=1e-3, micro_batch_size=4)
    assert [row["loss"] for row in parts] == pytest.approx([row["loss"] for row in whole], abs=1e-5)
    assert all(torch.allclose(tensor, weights[name], atol=1e-4) for name, tensor in backbone.adapter_state("policy").items())
