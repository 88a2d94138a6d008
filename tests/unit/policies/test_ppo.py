"""PPO: losses worked out by hand, no KL before the first update, and updates that change the policy and only the policy."""

import pytest
import torch

from configs.errors import LoopError
from configs.schema import GenerationConfig, LoraSection, PPOConfig
from policies.backbone import Backbone
from policies.losses import clipped_policy_loss, clipped_value_loss
from policies.ppo import PPOTrainer, ValueModel
from policies.ppo_metrics import standard_error
from policies.responses import EncodedPrompt
from policies.tokenization import decode_completion
from tests.conftest import make_causal_lm, perturb

GENERATION = GenerationConfig(max_new_tokens=8, temperature=0.7)
PROMPTS = [EncodedPrompt([3 + i, 4, 5][: 1 + i % 3]) for i in range(16)]


def make_trainer(backbone, value_model="head", **settings):
    backbone.add_adapter("sft")
    perturb(backbone, "sft")
    backbone.add_adapter("policy", copy_of="sft")
    backbone.add_adapter("reward", copy_of="sft")
    adapter = None
    if value_model == "adapter":
        adapter = "value"
        backbone.add_adapter("value", copy_of="reward")
    value = ValueModel(backbone, torch.full((1, backbone.hidden_size), 0.01), 0.5, adapter)
    settings = {"advantage": "gae", "samples_per_prompt": 1} | settings
    config = PPOConfig(batch_size=16, num_updates=20, value_model=value_model, **settings)

    def score(records):  # likes token 7
        return torch.tensor([float(record.token_ids.count(7)) for record in records])

    return PPOTrainer(backbone, value, score, config, GENERATION, seed=0)


@pytest.mark.parametrize("group", [1, 2])
def test_a_batch_mean_has_the_error_of_its_prompts(backbone, group):
    """The scores are 0, 1, 2 and 5. With one response to each prompt, the mean is 2, the variance (4 + 1 + 0 + 9) / 3, and the error
    sqrt(14 / 3 / 4). With two responses to each of two prompts, the prompts' means are 0.5 and 3.5, the variance 4.5, and the error
    sqrt(4.5 / 2) = 1.5."""
    trainer = make_trainer(backbone, samples_per_prompt=group)
    error = standard_error(torch.tensor([0.0, 1.0, 2.0, 5.0]), 2.0, group)
    assert error == pytest.approx((14 / 3 / 4) ** 0.5 if group == 1 else 1.5)
    metrics = trainer.step(0, PROMPTS[: 16 // group])
    assert metrics["objective/scores_standard_error"] > 0 and metrics["objective/kl_standard_error"] >= 0


def test_policy_loss_by_hand():
    # clip 0.2. ratio 1.5, A 1: -min(1.5, 1.2) = -1.2. ratio 1.5, A -1: -min(-1.5, -1.2) = 1.5.
    # ratio 0.5, A 1: -min(0.5, 0.8) = -0.5. ratio 0.5, A -1: -min(-0.5, -0.8) = 0.8.
    ratio, advantage = torch.tensor([1.5, 1.5, 0.5, 0.5]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert clipped_policy_loss(ratio, advantage, 0.2).tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8])


def test_value_loss_by_hand():
    # old 0, clip 0.2, return 1. v 0.5: max(0.25, 0.64) / 2 = 0.32. v -1: max(4, 1.44) / 2 = 2.
    values, zeros, ones = torch.tensor([0.5, -1.0]), torch.zeros(2), torch.ones(2)
    assert clipped_value_loss(values, zeros, ones, 0.2).tolist() == pytest.approx([0.32, 2.0])


@pytest.mark.parametrize("recompute", [True, False])
def test_before_the_first_update_the_ratio_is_one_and_the_kl_zero(backbone, recompute):
    """Log-probs kept from sampling come from merged weights. In float64, they equal the trainer's beyond doubt."""
    if not recompute:
        backbone.causal_lm.double()
    trainer = make_trainer(backbone, recompute_logprobs=recompute)
    rollout = trainer.roll_out(0, PROMPTS)
    assert rollout.kl.abs().max() < 1e-6
    responses = rollout.responses
    with torch.no_grad(), backbone.role("policy", train=True):
        logprobs = responses.logprobs(responses.states())
    assert (torch.exp(logprobs - rollout.logprobs) - 1).abs().max() < 1e-6


def test_in_bfloat16_recomputed_logprobs_start_at_ratio_one(backbone):
    """Log-probs from merged bfloat16 weights are off by about 1e-2. Those that the training code computes again are not."""
    backbone.causal_lm.bfloat16()
    trainer = make_trainer(backbone, recompute_logprobs=True, num_minibatches=1)
    seen = []
    trainer.score = lambda records: seen.extend(records) or torch.zeros(len(records))
    rollout = trainer.roll_out(0, PROMPTS)
    kept = torch.cat([record.trace.logprobs for record in seen])
    assert 1e-4 < (kept - rollout.logprobs[rollout.responses.mask]).abs().max() < 0.5
    losses = trainer._step_on(rollout, list(range(len(PROMPTS))), {"policy_loss": 1.0}, "here")
    assert losses["approx_kl"] < 1e-6 and losses["grad_norm"] > 0


@pytest.mark.parametrize("value_model", ["head", "adapter"])
def test_an_update_touches_the_policy_and_the_values_only(backbone, value_model):
    trainer = make_trainer(backbone, value_model)
    before = {name: p.detach().clone() for name, p in backbone.causal_lm.named_parameters()}
    head = trainer.value.head.weight.detach().clone()
    trainer.step(0, PROMPTS)
    changed = {name for name, p in backbone.causal_lm.named_parameters() if not torch.equal(p, before[name])}
    owners = {name.split(".")[-2] for name in changed}
    assert owners == ({"policy", "value"} if value_model == "adapter" else {"policy"})
    assert not torch.equal(trainer.value.head.weight, head)


@pytest.mark.parametrize("value_model", ["head", "adapter"])
def test_it_learns_what_is_scored(backbone, value_model):
    trainer = make_trainer(backbone, value_model, learning_rate=2e-2, kl_coefficient=0.0, missing_end_penalty=0.0)
    scores = [trainer.step(update, PROMPTS)["objective/scores"] for update in range(20)]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.5


@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
def test_without_a_critic_it_learns_as_well(backbone, advantage):
    words = {"learning_rate": 2e-2, "kl_coefficient": 0.0, "missing_end_penalty": 0.0, "samples_per_prompt": 4}
    trainer = make_trainer(backbone, advantage=advantage, **words)
    scores = [trainer.step(update, PROMPTS[:4])["objective/scores"] for update in range(20)]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.5


def test_micro_batches_do_not_change_the_update(backbone):
    states = []
    for size in (None, 3):
        trainer = make_trainer(backbone, micro_batch_size=size, num_minibatches=2)
        trainer.step(0, PROMPTS)
        states.append(backbone.adapter_state("policy"))
    for key in states[0]:
        assert torch.allclose(states[0][key], states[1][key], atol=1e-5)


def test_the_kl_penalty_holds_the_policy(backbone):
    kls = []
    for coefficient in (1e-9, 5.0):  # with 0, no KL is measured
        trainer = make_trainer(backbone, learning_rate=2e-3, kl_coefficient=coefficient)
        kls.append([trainer.step(update, PROMPTS)["objective/kl"] for update in range(10)][-1])
    assert kls[1] < kls[0]


@pytest.mark.parametrize("group", [1, 2])
def test_the_score_function_gets_records(backbone, group):
    """A record has the text of the response, and the text, id and source of its prompt. Responses to one prompt follow each other."""
    trainer = make_trainer(backbone, samples_per_prompt=group)
    prompts = [EncodedPrompt([3 + i, 4], f"question {i}", f"p{i}", "web") for i in range(16 // group)]
    seen = []
    trainer.score = lambda records: seen.extend(records) or [0.5] * len(records)
    rollout = trainer.roll_out(0, prompts)
    assert rollout.raw_scores.tolist() == [0.5] * 16
    for i, record in enumerate(seen):
        asked = prompts[i // group]
        assert (record.prompt, record.prompt_id, record.source) == (asked.prompt, asked.prompt_id, "web")
        assert record.prompt_token_ids == asked.token_ids
        assert record.completion == decode_completion(backbone.tokenizer, record.token_ids)
        assert record.finished == (record.token_ids[-1] == backbone.tokenizer.eos_token_id) == bool(rollout.finished[i])


def test_a_score_that_is_no_number_stops_before_the_step(backbone):
    trainer = make_trainer(backbone)
    score = trainer.score

    def broken(records):
        scores = score(records)
        scores[3] = float("nan")
        return scores

    trainer.score = broken
    before = backbone.adapter_state("policy")
    with pytest.raises(LoopError, match="update 2, responses"):
        trainer.step(2, PROMPTS)
    after = backbone.adapter_state("policy")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_bytes_by_owner(backbone):
    """There are the adapters sft, policy and reward. AdamW keeps two moments and a step count for each parameter."""
    trainer = make_trainer(backbone, num_epochs=1)
    trainer.step(0, PROMPTS)
    found = trainer.resident_bytes()
    numbers = sum(p.numel() for p in trainer.parameters)
    assert found["adapters"] == 3 * 4 * sum(p.numel() for p in backbone.parameters("policy"))
    assert found["optimizer"] == 4 * (2 * numbers + len(trainer.parameters))
    assert found["heads"] == 4 * (backbone.hidden_size + 1)
    # 16 rows x (3 prompt + 8 response tokens) x 2 layers x (keys, values) x 32 numbers x 4 bytes
    assert found["kv_cache"] == 16 * (3 + 8) * 2 * 2 * 32 * 4
    assert found["base"] == sum(p.numel() * 4 for n, p in backbone.causal_lm.named_parameters() if "lora_" not in n)
    assert found["peak"] > found["base"] + found["adapters"]


@pytest.mark.parametrize("value_model", ["head", "adapter"])
def test_gradient_checkpointing_changes_no_bit(value_model):
    """Layers run again for the backward pass instead of keeping their activations. The operations are the same, and so is the adapter."""
    found = []
    for checkpointing in (False, True):
        model, tokenizer = make_causal_lm()
        backbone = Backbone(model, tokenizer, LoraSection(rank=4), gradient_checkpointing=checkpointing)
        trainer = make_trainer(backbone, value_model=value_model)
        trainer.step(0, PROMPTS)
        found.append(backbone.adapter_state("policy") | {"head": trainer.value.head.weight})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
