"""Reward shaping, GAE, whitening and KL agree with cases worked out by hand and with an independent numpy reference."""

import numpy as np
import pytest
import torch

from policies.advantages import (
    KLController,
    generalized_advantages,
    group_advantages,
    kl_per_token,
    masked_mean,
    shape_rewards,
    standard_deviation,
    whiten,
)

MASK = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])


def test_shaped_rewards_by_hand():
    # Coefficient 0.5. Row 0: three tokens, score 3 on the last: -0.5, -1, -1.5 + 3. Row 1: two tokens, score -1 on the
    # second: -0.5, -1 - 1. Row 2: one token, score 10: -0.5 + 10. Nothing on masked places.
    kl = torch.tensor([[1.0, 2.0, 3.0]] * 3)
    rewards = shape_rewards(torch.tensor([3.0, -1.0, 10.0]), kl, MASK, 0.5)
    assert rewards.tolist() == [[-0.5, -1.0, 1.5], [-0.5, -2.0, 0.0], [9.5, 0.0, 0.0]]


def test_gae_by_hand():
    # gamma 1, lambda 0.5; rewards 0, 0, 1; values 1, 2, 3; nothing after the end.
    # delta_2 = 1 - 3 = -2; delta_1 = 3 - 2 = 1; delta_0 = 2 - 1 = 1.
    # A_2 = -2; A_1 = 1 + 0.5 x -2 = 0; A_0 = 1 + 0.5 x 0 = 1. Returns: A + V = 2, 2, 1.
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    advantages, returns = generalized_advantages(rewards, values, torch.ones(1, 3, dtype=torch.bool), 1.0, 0.5)
    assert advantages.tolist() == [[1.0, 0.0, -2.0]]
    assert returns.tolist() == [[2.0, 2.0, 1.0]]


def test_gae_ignores_what_is_masked():
    rewards, values = torch.tensor([[1.0, 2.0, 99.0]]), torch.tensor([[0.5, 0.25, 99.0]])
    short = generalized_advantages(rewards[:, :2], values[:, :2], MASK[1:2, :2], 0.9, 0.8)
    padded = generalized_advantages(rewards, values, MASK[1:2], 0.9, 0.8)
    assert torch.equal(padded[0][:, :2], short[0])
    assert padded[0][0, 2] == 0 and padded[1][0, 2] == 0


def test_gae_equals_the_sum_of_its_definition():
    """arXiv 1506.02438, equation 16: A_t = sum_l (gamma lambda)^l delta_{t+l}, summed directly in numpy."""
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(4, 7)), rng.normal(size=(4, 7))
    lengths, gamma, lam = [7, 5, 1, 3], 0.97, 0.9
    mask = np.arange(7)[None] < np.array(lengths)[:, None]
    expected = np.zeros((4, 7))
    for b, n in enumerate(lengths):
        v = np.append(values[b, :n], 0.0)
        deltas = rewards[b, :n] + gamma * v[1:] - v[:-1]
        for t in range(n):
            expected[b, t] = sum((gamma * lam) ** k * deltas[t + k] for k in range(n - t))
    advantages, _ = generalized_advantages(torch.tensor(rewards), torch.tensor(values), torch.tensor(mask), gamma, lam)
    np.testing.assert_allclose(advantages.numpy(), expected, atol=1e-12)


def test_whitening_uses_kept_entries_only():
    values = torch.tensor([[1.0, 3.0, 1000.0], [5.0, 7.0, -1000.0]])
    mask = torch.tensor([[True, True, False], [True, True, False]])
    # mean 4, variance (9 + 1 + 1 + 9) / 4 = 5
    white = whiten(values, mask)
    expected = (torch.tensor([1.0, 3.0, 5.0, 7.0]) - 4) / 5**0.5
    assert torch.allclose(white[mask], expected, atol=1e-6)
    assert white[~mask].tolist() == [0.0, 0.0]
    assert masked_mean(whiten(values, mask, shift_mean=False), mask) == pytest.approx(4.0, abs=1e-5)


def test_kl_estimators():
    logp, ref = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])
    assert kl_per_token(logp, ref, "k1").tolist() == [[0.5, -1.0]]
    assert kl_per_token(logp, ref, "k2").tolist() == [[0.125, 0.5]]  # half of the squares
    # k3 = exp(-k1) - 1 + k1: e^-0.5 - 0.5 and e - 2
    assert torch.allclose(kl_per_token(logp, ref, "k3"), torch.tensor([[np.exp(-0.5) - 0.5, np.e - 2]], dtype=torch.float32))


def test_the_adaptive_controller():
    # Target 6, measured 12: error clipped to 0.2, 0.1 x (1 + 0.2 x 64 / 100) = 0.1128. Fixed: unchanged.
    adaptive, fixed = KLController(0.1, target=6.0, horizon=100), KLController(0.1)
    adaptive.update(12.0, 64)
    fixed.update(12.0, 64)
    assert adaptive.coefficient == pytest.approx(0.1128)
    assert fixed.coefficient == 0.1


def test_group_advantages_by_hand():
    # Two prompts, three responses each. RLOO: 1 - (2 + 6) / 2 = -3, 2 - (1 + 6) / 2 = -1.5, 6 - (1 + 2) / 2 = 4.5; equal ones get 0.
    totals = torch.tensor([1.0, 2.0, 6.0, 4.0, 4.0, 4.0])
    assert group_advantages(totals, 3, "rloo").tolist() == pytest.approx([-3.0, -1.5, 4.5, 0.0, 0.0, 0.0])
    # GRPO: mean 3, variance (4 + 1 + 9) / 2 = 7: (1 - 3) / (sqrt(7) + 1e-4) and so on.
    expected = [(x - 3) / (7**0.5 + 1e-4) for x in (1, 2, 6)] + [0.0] * 3
    assert group_advantages(totals, 3, "grpo").tolist() == pytest.approx(expected)
    # Unscaled: -2, -1, 3. By the batch: mean 3.5, variance (6.25 + 2.25 + 6.25 + 3 x 0.25) / 5 = 3.1.
    assert group_advantages(totals, 3, "grpo", "none").tolist() == pytest.approx([-2.0, -1.0, 3.0, 0.0, 0.0, 0.0])
    expected = [x / (3.1**0.5 + 1e-4) for x in (-2, -1, 3, 0, 0, 0)]
    assert group_advantages(totals, 3, "grpo", "batch").tolist() == pytest.approx(expected)


def test_the_standard_deviation_is_that_of_all_workers():
    """Each of two workers has a part, and the sums over both are what `reduce` returns."""
    parts = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([4.0, 4.5])
    whole = torch.cat(parts)
    sums = iter([torch.tensor([5.0]), whole.sum()[None], ((whole - whole.mean()) ** 2).sum()[None]])
    assert standard_deviation(parts[0], lambda own: next(sums)).item() == pytest.approx(whole.std().item())
