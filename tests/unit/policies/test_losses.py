"""The parts of PPO's loss, worked out by hand, and their gradients, by enumeration."""

import math

import numpy as np
import pytest
import torch

from policies.advantages import kl_per_token
from policies.losses import clipped_policy_loss, divisor, importance_ratio, is_clipped, sequence_ratio, summed

MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_a_higher_clip_range_lets_only_ratios_above_one_go_further():
    # 1 - 0.2 and 1 + 0.5. ratio 1.4, A 1: not clipped, -1.4. ratio 1.6, A 1: -1.5. ratio 0.7, A -1: -min(-0.7, -0.8) = 0.8.
    ratio, advantages = torch.tensor([1.4, 1.6, 0.7]), torch.tensor([1.0, 1.0, -1.0])
    assert clipped_policy_loss(ratio, advantages, 0.2, 0.5).tolist() == pytest.approx([-1.4, -1.5, 0.8])
    assert is_clipped(ratio, 0.2, 0.5).tolist() == [False, True, True]
    assert is_clipped(ratio, 0.2).tolist() == [True, True, True]


def test_a_sequence_has_the_geometric_mean_of_its_ratios():
    # Row 0: 2, 8 and 4 have the mean 64^(1/3) = 4. Row 1: one token with 3; what is masked does not count.
    log_ratio = torch.tensor([[2.0, 8.0, 4.0], [3.0, 99.0, 99.0]]).log()
    assert sequence_ratio(log_ratio, MASK)[MASK].tolist() == pytest.approx([4.0, 4.0, 4.0, 3.0])
    assert importance_ratio(log_ratio, MASK, "token")[MASK].tolist() == pytest.approx([2.0, 8.0, 4.0, 3.0])


def test_gspo_is_the_objective_of_its_paper():
    """arXiv 2507.18071, equation 5, as a loop over responses in numpy. Its gradient is compared by central differences."""
    rng = np.random.default_rng(0)
    log_ratio, advantages, lengths = 0.3 * rng.normal(size=(4, 5)), rng.normal(size=4), [5, 2, 3, 1]

    def loss_of_paper(log_ratio):
        total = 0.0
        for i, length in enumerate(lengths):
            s = math.exp(sum(log_ratio[i, :length]) / length)
            total += min(s * advantages[i], min(max(s, 0.9), 1.15) * advantages[i])
        return -total / len(lengths)

    mask = torch.arange(5)[None] < torch.tensor(lengths)[:, None]
    ours = torch.tensor(log_ratio, requires_grad=True)
    values = clipped_policy_loss(sequence_ratio(ours, mask), torch.tensor(advantages)[:, None], 0.1, 0.15)
    loss = summed(values, mask, "sequence") / divisor("sequence", mask.sum(), torch.tensor(4.0), 5)
    loss.backward()
    assert loss.item() == pytest.approx(loss_of_paper(log_ratio), abs=1e-12)
    for place in np.ndindex(4, 5):
        step = np.zeros((4, 5))
        step[place] = 1e-6
        slope = (loss_of_paper(log_ratio + step) - loss_of_paper(log_ratio - step)) / 2e-6
        assert ours.grad[place].item() == pytest.approx(slope, abs=1e-8)


def test_averages_by_hand():
    # Rows [1, 2, 6] and [5]. token: 14 / 4 tokens. sequence: (3 + 5) / 2 responses. dr_grpo: 14 / (2 responses x 10 tokens).
    values, counts = torch.tensor([[1.0, 2.0, 6.0], [5.0, 99.0, 99.0]]), (torch.tensor(4.0), torch.tensor(2.0), 10)
    expected = {"token": 14 / 4, "sequence": (3 + 5) / 2, "dr_grpo": 14 / 20}
    for loss_type, mean in expected.items():
        assert (summed(values, MASK, loss_type) / divisor(loss_type, *counts)).item() == pytest.approx(mean)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_gradients_of_the_kl_estimators_in_the_loss(estimator):
    """The mean over all four tokens, weighted by the policy, is exact. k1 has the gradient 0, so it is refused in the loss. k2 has that of
    KL(p || q), and k3 that of KL(q || p), which is p - q for the logits (Schulman 2020; arXiv 2510.01555)."""
    logits = torch.tensor([0.3, -1.0, 0.7, 0.1], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    logprobs = logits.log_softmax(0)
    p = logprobs.exp().detach()
    (gradient,) = torch.autograd.grad((p * kl_per_token(logprobs, q.log(), estimator)).sum(), logits, retain_graph=True)
    (of_reverse_kl,) = torch.autograd.grad((logprobs.exp() * (logprobs - q.log())).sum(), logits)
    expected = {"k1": torch.zeros(4, dtype=torch.float64), "k2": of_reverse_kl, "k3": p - q}[estimator]
    assert torch.allclose(gradient, expected, atol=1e-12)
    assert of_reverse_kl.abs().max() > 0.1
