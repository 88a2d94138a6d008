"""What each option of PPO does. Gradients are compared with a loop over single responses that shares no code with the trainer."""

import math

import pytest
import torch

from policies.ppo import PPOTrainer
from tests.conftest import perturb
from tests.unit.policies.test_ppo import GENERATION, PROMPTS, make_trainer

GROUPS = {"samples_per_prompt": 4, "missing_end_penalty": 0.0}
OPTIONS = {
    "grpo as in its paper": {"advantage": "grpo", "loss_type": "sequence", "kl_coefficient": 0.3},
    "dapo": {"advantage": "grpo", "clip_range_high": 0.28, "mask_truncated": True, "kl_coefficient": 0.0},
    "dr_grpo": {"advantage": "grpo", "scale_rewards": "none", "loss_type": "dr_grpo", "entropy_coefficient": 0.2},
    "gspo": {"advantage": "rloo", "importance_ratio": "sequence", "loss_type": "sequence", "clip_range": 0.02, "clip_range_high": 0.03},
    "rloo with everything": {
        "advantage": "rloo",
        "importance_ratio": "sequence",
        "loss_type": "dr_grpo",
        "mask_truncated": True,
        "entropy_coefficient": 0.5,
        "kl_in": "loss",
        "kl_estimator": "k2",
        "kl_coefficient": 0.7,
    },
    "gae with the kl in the loss": {"advantage": "gae", "samples_per_prompt": 1, "kl_in": "loss", "value_coefficient": 0.0},
}


def prompts_of(trainer: PPOTrainer):
    return PROMPTS[: 16 // trainer.config.samples_per_prompt]


@pytest.mark.parametrize("name", OPTIONS)
def test_the_gradient_is_that_of_the_formula(backbone, name):
    """After the rollout, the policy is moved, so ratios differ from 1 and some are clipped. Every third response counts as truncated."""
    backbone.causal_lm.double()
    once = {"num_epochs": 1, "num_minibatches": 1, "micro_batch_size": 3, "max_grad_norm": 1e9}
    trainer = make_trainer(backbone, **GROUPS | once | OPTIONS[name])
    config = trainer.config
    trainer.score = lambda records: [float(sum(record.token_ids) % 7) for record in records]
    rollout = trainer.roll_out(0, prompts_of(trainer))
    rollout.finished = torch.tensor([i % 3 > 0 for i in range(16)])
    perturb(backbone, "policy", scale=0.02, seed=1)
    policy, weights = trainer.parameters[0], trainer._weights(0)
    assert weights.keys() >= {"policy_loss"} and policy.grad.abs().max() == 0
    terms = _terms_by_hand(trainer, rollout)
    parameters = backbone.parameters("policy")
    with backbone.role("policy", train=True):
        expected = torch.cat([g.flatten() for g in torch.autograd.grad(_loss_by_hand(terms, config), parameters)])
    found = trainer._optimize(0, rollout, 16)
    assert torch.allclose(policy.grad, expected, atol=1e-10) and expected.abs().max() > 1e-3
    counted = [i for i in range(16) if rollout.finished[i] or not config.mask_truncated]
    clipped = [
        r for i in counted for r in terms[i]["ratio"] if r > 1 + (config.clip_range_high or config.clip_range) or r < 1 - config.clip_range
    ]
    assert found[0]["clip_fraction"] == pytest.approx(len(clipped) / sum(len(terms[i]["ratio"]) for i in counted)) and clipped


def _terms_by_hand(trainer, rollout):
    """The terms of each response, by plain forward passes of transformers on one response at a time."""
    backbone, batch, found = trainer.backbone, rollout.responses.batch, []
    for row in range(len(rollout.responses)):
        ids = batch.input_ids[row][batch.attention_mask[row].bool()]
        length = int(rollout.responses.mask[row].sum())
        logprobs = {}
        for adapter in ("policy", "sft"):
            with backbone.role(adapter, train=adapter == "policy"):
                logits = backbone.causal_lm(input_ids=ids[None]).logits[0, -length - 1 : -1] / GENERATION.temperature
                logprobs[adapter] = logits.log_softmax(-1)
        new, reference = (logprobs[name].gather(1, ids[-length:, None])[:, 0] for name in ("policy", "sft"))
        log_ratio = new - rollout.logprobs[row, :length]
        if trainer.config.importance_ratio == "sequence":
            log_ratio = log_ratio.mean().expand(length)
        entropies = torch.stack([torch.distributions.Categorical(logits=one).entropy() for one in logprobs["policy"]])
        kl = new - reference.detach()
        kl = {"k2": kl**2 / 2, "k3": torch.exp(-kl) - 1 + kl}.get(trainer.config.kl_estimator_used, kl)
        found.append(
            {
                "ratio": log_ratio.exp(),
                "kl": kl,
                "entropy": entropies,
                "A": rollout.advantages[row, :length],
                "counts": rollout.finished[row],
            }
        )
    return found


def _loss_by_hand(terms, config):
    """The loss of the whole batch: a mean over tokens, over the means of responses, or over responses of the longest length."""
    rows = [row for row in terms if row["counts"] or not config.mask_truncated]
    values = []
    for row in rows:
        high = config.clip_range if config.clip_range_high is None else config.clip_range_high
        clipped = row["ratio"].clamp(1 - config.clip_range, 1 + high)
        value = -torch.minimum(row["ratio"] * row["A"], clipped * row["A"]) - config.entropy_coefficient * row["entropy"]
        values.append(value + config.kl_coefficient * row["kl"] if config.kl_is_in_loss else value)
    return {
        "token": sum(value.sum() for value in values) / sum(map(len, values)),
        "sequence": sum(value.mean() for value in values) / len(values),
        "dr_grpo": sum(value.sum() for value in values) / len(values) / GENERATION.max_new_tokens,
    }[config.loss_type]


def test_grpo_learns_nothing_from_equal_scores_unless_the_kl_is_in_the_reward(backbone):
    """In the reward, the noise of the KL is divided by the group's standard deviation, so advantages of about 1 come out of nothing."""
    largest = {}
    for kl_in in (None, "reward"):
        trainer = make_trainer(backbone, **GROUPS, advantage="grpo", kl_in=kl_in, kl_coefficient=0.05)
        perturb(backbone, "policy", seed=2)
        trainer.score = lambda records: torch.full((len(records),), 0.5)
        largest[kl_in] = trainer.roll_out(0, prompts_of(trainer)).advantages.abs().max().item()
    assert largest[None] == 0.0 and largest["reward"] > 0.5


@pytest.mark.parametrize("advantage", ["gae", "grpo"])
def test_without_a_coefficient_the_reference_is_not_run(backbone, advantage):
    settings = {"samples_per_prompt": 1 if advantage == "gae" else 4, "advantage": advantage, "num_epochs": 1}
    for coefficient, adapters in ((0.1, ["sft"]), (0.0, [])):
        trainer, run = make_trainer(backbone, kl_coefficient=coefficient, **settings), []
        real = trainer._run
        trainer._run = lambda responses, adapter, real=real, run=run: run.append(adapter) or real(responses, adapter)
        metrics = trainer.step(0, prompts_of(trainer))
        assert run == adapters
        names = {"objective/kl", "objective/kl_standard_error"}
        assert names & metrics.keys() == (names if coefficient else set())
        assert ("loss/kl_avg" in metrics) == (coefficient > 0 and advantage == "grpo")


@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
def test_without_a_critic_nothing_of_it_runs(backbone, advantage):
    trainer, run = make_trainer(backbone, "adapter", **GROUPS, advantage=advantage), []
    real = trainer._run
    trainer._run = lambda responses, adapter: run.append(adapter) or real(responses, adapter)
    before = [p.detach().clone() for p in backbone.parameters("value")]
    metrics = trainer.step(0, prompts_of(trainer))
    assert run == ["sft"] and len(trainer.parameters) == 1 and metrics["loss/value_avg"] == 0.0
    assert all(torch.equal(p, was) for p, was in zip(backbone.parameters("value"), before, strict=True))
    assert trainer.resident_bytes()["heads"] == 0


def test_an_update_of_truncated_responses_only_trains_nothing(backbone):
    """None of the 16 responses has an end token: all gradients are 0, and AdamW starts without moments, so no weight moves."""
    trainer = make_trainer(backbone, **GROUPS, advantage="rloo", mask_truncated=True, entropy_coefficient=0.1)
    rollout = trainer.roll_out(0, prompts_of(trainer))
    rollout.finished[:] = False
    before = trainer.parameters[0].detach().clone()
    found = trainer._optimize(0, rollout, 16)
    assert [row["grad_norm"] for row in found] == [0.0] * 4
    assert torch.equal(trainer.parameters[0], before)
    assert trainer._metrics(rollout, found, trainer._weights(0))["loss/entropy_avg"] == 0.0


@pytest.mark.parametrize(("target_kl", "epochs"), [(1e-9, 1), (1e9, 3)])
def test_epochs_end_when_the_policy_has_moved_too_far(backbone, target_kl, epochs):
    """The first of an epoch's two minibatches is taken before any step, where the KL is 0, and the second one after a step."""
    trainer = make_trainer(backbone, learning_rate=1e-2, num_epochs=3, target_kl=target_kl)
    metrics = trainer.step(0, PROMPTS)
    assert metrics["policy/num_epochs"] == epochs and metrics["policy/approxkl_avg"] > 1e-9


@pytest.mark.parametrize("value_model", ["head", "adapter"])
def test_while_the_critic_warms_up_the_policy_stays(backbone, value_model):
    """The optimizer does not even count these steps for the policy, and the KL controller waits, because the KL is 0 without a reason."""
    trainer = make_trainer(backbone, value_model, value_warmup_updates=2, kl_target=1.0, entropy_coefficient=0.1)
    policy, start = trainer.parameters[0], trainer.parameters[0].detach().clone()
    values = [p.detach().clone() for p in trainer.parameters[1:]]
    found = [trainer.step(update, PROMPTS) for update in (0, 1)]
    assert torch.equal(policy, start) and policy not in trainer.optimizer.state
    assert not any(torch.equal(p, was) for p, was in zip(trainer.parameters[1:], values, strict=True))
    assert all(row["policy/approxkl_avg"] < 1e-6 and row["loss/value_avg"] > 0 for row in found)
    assert found[1]["loss/value_avg"] < found[0]["loss/value_avg"] and trainer.kl.coefficient == trainer.config.kl_coefficient
    trainer.step(2, PROMPTS)
    assert not torch.equal(policy, start) and trainer.optimizer.state[policy]["step"].item() == 4
    assert trainer.kl.coefficient != trainer.config.kl_coefficient


def test_an_entropy_bonus_keeps_the_policy_more_random(backbone):
    """Without scores, the bonus is all there is: entropy rises toward that of 300 equal tokens, log 300 = 5.7 nats."""
    trainer = make_trainer(backbone, **GROUPS, advantage="rloo", learning_rate=2e-2, kl_coefficient=0.0, entropy_coefficient=1.0)
    trainer.score = lambda records: [0.0] * len(records)
    found = [trainer.step(update, prompts_of(trainer))["policy/entropy_avg"] for update in range(6)]
    assert found[0] + 0.2 < found[-1] < math.log(300)
