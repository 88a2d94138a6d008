"""Our advantages, losses and gradients equal those of TRL 1.12.0's PPO on the same numbers (tests/benchmarks/ppo_parity.py).

One difference is on purpose: TRL whitens with the sample variance, n - 1, and we with the population variance, n, as in OpenAI's code and
arXiv 2403.17031, detail on whitening (`unbiased=False`). The factor sqrt((n - 1) / n) is taken out of TRL's numbers here.
"""

import json
from pathlib import Path

import pytest
import torch

from policies.advantages import generalized_advantages, kl_per_token, shape_rewards, whiten
from policies.losses import clipped_policy_loss, clipped_value_loss

RECORDED = json.loads((Path(__file__).parent / "trl_ppo.json").read_text(encoding="utf-8"))


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("case", RECORDED["cases"])
def test_the_numbers_are_trls(case):
    theirs, settings = RECORDED["cases"][case], RECORDED["cases"][case]["settings"]
    given = {name: tensor(values) for name, values in RECORDED["inputs"].items()}
    mask = torch.ones_like(given["logprobs"], dtype=torch.bool)
    n = mask.sum().item()
    bessel = (n / (n - 1)) ** 0.5  # population over sample standard deviation, so ours = theirs x bessel

    kl = kl_per_token(given["logprobs"], given["ref_logprobs"], settings["kl_estimator"])
    rewards = shape_rewards(given["scores"], kl, mask, settings["kl_coef"])
    if settings["whiten_rewards"]:
        rewards = whiten(rewards, mask, shift_mean=False)
        mean = tensor(theirs["rewards"]).mean()  # whitening without a shift keeps the mean out: (x - m) / s + m
        centred = rewards - rewards.mean()
        assert torch.allclose(centred / bessel, tensor(theirs["rewards"]) - mean, atol=1e-7)
        rewards = tensor(theirs["rewards"])  # go on from the same numbers
    assert torch.allclose(rewards, tensor(theirs["rewards"]), atol=1e-12)

    advantages, returns = generalized_advantages(rewards, given["values"], mask, settings["gamma"], settings["lam"])
    assert torch.allclose(returns, tensor(theirs["returns"]), atol=1e-12)
    advantages = whiten(advantages, mask) / bessel
    assert torch.allclose(advantages, tensor(theirs["advantages"]), atol=1e-7)

    new_logprobs, values = given["new_logprobs"].requires_grad_(), given["vpred"].requires_grad_()
    ratio = torch.exp(new_logprobs - given["logprobs"])
    policy_loss = clipped_policy_loss(ratio, advantages, settings["cliprange"]).mean()
    value_loss = clipped_value_loss(values, given["values"], returns, settings["cliprange_value"]).mean()
    loss = policy_loss + settings["vf_coef"] * value_loss
    loss.backward()
    assert policy_loss.item() == pytest.approx(theirs["pg_loss"], abs=1e-7)
    assert value_loss.item() == pytest.approx(theirs["vf_loss"], abs=1e-12)
    assert loss.item() == pytest.approx(theirs["loss"], abs=1e-7)
    assert torch.allclose(new_logprobs.grad, tensor(theirs["grad_logprobs"]), atol=1e-8)
    assert torch.allclose(values.grad, tensor(theirs["grad_values"]), atol=1e-12)
    assert (new_logprobs.grad == 0).any() and (new_logprobs.grad != 0).any()  # some ratios are clipped, some are not
