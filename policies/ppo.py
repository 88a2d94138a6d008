"""Proximal policy optimisation (PPO) of one adapter against a score function. It does not know what a reward model is.

    prompts -> responses -> log-probs, values, reference log-probs -> scores -> rewards -> advantages -> updates

After arXiv 1707.06347, 1909.08593 (language models) and 2403.17031 (the details; `docs/ppo.md` lists them). Some choices are fixed:
- Dropout is off, because the log-probs must be those of the sampler.
- The score is added to the reward of the last token only, because only then the whole response is known.
- The optimiser is AdamW without weight decay.
- The critic starts as the reward model's head. A random one would first have to be unlearnt.

Letters: B batch, R response tokens, M real response tokens of a batch, H hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from configs.errors import LoopError
from configs.schema import GenerationConfig, PPOConfig
from configs.seeds import derive_seed
from policies import parallel
from policies.advantages import (
    KLController,
    generalized_advantages,
    group_advantages,
    kl_per_token,
    shape_rewards,
    whiten,
)
from policies.backbone import Backbone
from policies.batching import minibatches, worker_rows
from policies.checkpoints import Checkpoints
from policies.generation import generate
from policies.memory import resident_bytes
from policies.ppo_checkpoints import load_state, save_state
from policies.ppo_metrics import loss_metrics, response_metrics
from policies.reporting import Report
from policies.responses import EncodedPrompt, ResponseBatch, ResponseRecord, ScoreFunction, make_records, mean_entropy

MICRO_BATCHES_PER_PASS = 4
"""A pass without gradients takes this many micro-batches at a time. It then needs no more memory than a pass with gradients."""


@dataclass
class Rollout:
    """Responses, and what they were worth when they were sampled. The values of masked tokens are 0."""

    responses: ResponseBatch
    logprobs: torch.Tensor  # [B, R]
    values: torch.Tensor  # [B, R]
    kl: torch.Tensor  # [B, R], nats to the reference
    advantages: torch.Tensor  # [B, R]
    returns: torch.Tensor  # [B, R]
    raw_scores: torch.Tensor  # [B]
    scores: torch.Tensor  # [B], with the penalty for a missing end token
    finished: torch.Tensor  # [B] bool
    entropy: float  # mean nats per token of the sampling distribution


class ValueModel:
    """The critic: a linear head on the hidden states of the policy itself, or of an adapter of its own.

    The head starts as the reward model's (arXiv 2403.17031, section 7), given as `head` [1, H] and `bias`.
    """

    def __init__(self, backbone: Backbone, head: torch.Tensor, bias: float, adapter: str | None):
        self.head = nn.Linear(backbone.hidden_size, 1).to(backbone.device)
        with torch.no_grad():
            self.head.weight.copy_(head)
            self.head.bias.fill_(bias)
        self.backbone, self.adapter = backbone, adapter

    def parameters(self) -> list[list[nn.Parameter]]:
        """Return the parameters of the head, and those of the critic's own adapter."""
        return [list(self.head.parameters()), *([self.backbone.parameters(self.adapter)] if self.adapter else [])]

    def values(self, responses: ResponseBatch, states: torch.Tensor) -> torch.Tensor:
        """Return the values [B, R] of states [M, H], which come from the policy or from the critic's own adapter."""
        return responses.on_grid(self.head(states.to(self.head.weight.dtype))[:, 0])


class PPOTrainer:
    """Trains the adapter `policy` of a backbone. The KL is measured to the adapter `reference` (None: the bare base)."""

    def __init__(
        self,
        backbone: Backbone,
        value: ValueModel,
        score: ScoreFunction,
        config: PPOConfig,
        generation: GenerationConfig,
        seed: int,
        policy: str = "policy",
        reference: str | None = "sft",
    ):
        self.backbone, self.value, self.score, self.config, self.generation = backbone, value, score, config, generation
        self.policy, self.reference, self.seed = policy, reference, seed
        self.kl = KLController(config.kl_coefficient, config.kl_target, config.kl_horizon)
        self.has_critic = config.advantage == "gae"
        owners = [backbone.parameters(policy), *(value.parameters() if self.has_critic else [])]
        self.parameters = [parallel.flattened(parameters) for parameters in owners]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, eps=config.adam_epsilon, weight_decay=0.0, fused=True)

    def train(self, batches: Sequence[Sequence[EncodedPrompt]], checkpoints: Checkpoints, report: Report) -> list[dict[str, float]]:
        """Do one update for each batch of prompts, starting from the last checkpoint. Returns the metrics of all updates."""
        state = self.parameters, self.optimizer, self.kl
        log = load_state(checkpoints.newest(), *state)
        for update in range(len(log), len(batches)):
            log.append({"update": update} | self.step(update, batches[update]))
            report(update + 1, len(batches), log[-1])
            if checkpoints.due():
                with checkpoints.saving(update + 1) as folder:
                    save_state(folder, *state, log)
        return log

    def step(self, update: int, prompts: Sequence[EncodedPrompt]) -> dict[str, float]:
        """Do one update on a batch of `batch_size / samples_per_prompt` prompts. Returns its metrics.

        Every worker gets the whole batch and takes its own part of it.
        """
        config, size = self.config, len(prompts) * self.config.samples_per_prompt
        self._set_learning_rate(update)
        rollout = self.roll_out(update, prompts)
        losses = []
        with self.backbone.role(self.policy, train=True):
            for rows in minibatches(size, config.samples_per_prompt, config.num_minibatches, config.num_epochs, self.seed, update):
                losses.append(self._optimize(rollout, rows, f"update {update}, responses {rows} of the batch"))
        metrics = self._metrics(rollout, losses)
        self.kl.update(metrics["objective/kl"], size)
        return metrics

    # -- rollout ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def roll_out(self, update: int, prompts: Sequence[EncodedPrompt]) -> Rollout:
        """Respond to this worker's prompts, and compute what each token was worth."""
        config = self.config
        records = self._respond(update, prompts)
        responses = ResponseBatch.from_records(self.backbone, records, self.generation.temperature)

        if config.recompute_logprobs:
            states, logprobs = self._run(responses, self.policy)
        else:
            states, logprobs = responses.as_sampled(records)
        if self.value.adapter:
            states, _ = self._run(responses, self.value.adapter)
        values = self.value.values(responses, states)
        _, reference = self._run(responses, self.reference)

        raw_scores = torch.as_tensor(self.score(records), dtype=torch.float32, device=self.backbone.device)
        finished = torch.tensor([record.finished for record in records], device=raw_scores.device)
        scores = raw_scores - config.missing_end_penalty * ~finished
        kl = kl_per_token(logprobs, reference, config.kl_estimator) * responses.mask
        rewards = shape_rewards(scores, kl, responses.mask, self.kl.coefficient)
        advantages, returns = self._advantages(rewards, values, responses.mask)
        entropy = mean_entropy(records)
        return Rollout(responses, logprobs, values, kl, advantages, returns, raw_scores, scores, finished, entropy)

    def _respond(self, update: int, prompts: Sequence[EncodedPrompt]) -> list[ResponseRecord]:
        """Sample `samples_per_prompt` responses to each of this worker's prompts."""
        group_size = self.config.samples_per_prompt
        rows = worker_rows(len(prompts) * group_size, group_size)
        own = [prompts[i // group_size] for i in rows]
        seeds = [derive_seed(self.seed, update, i) for i in rows]
        responses = generate(self.backbone, self.policy, [prompt.token_ids for prompt in own], seeds, self.generation, trace=True)
        return make_records(self.backbone.tokenizer, own, responses)

    def _run(self, responses: ResponseBatch, adapter: str | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return states [M, H] and log-probs [B, R] under an adapter, a few micro-batches at a time."""
        micro_batch_size = self.config.micro_batch_size or max(1, len(responses) // self.config.num_minibatches)
        return responses.under(adapter, MICRO_BATCHES_PER_PASS * micro_batch_size)

    def _advantages(self, rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return advantages and returns, [B, R] each. Without a critic, advantages compare the responses to one prompt."""
        config = self.config
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False, reduce=parallel.all_sum)
        if self.has_critic:
            advantages, returns = generalized_advantages(rewards, values, mask, config.gamma, config.gae_lambda)
            return whiten(advantages, mask, reduce=parallel.all_sum) if config.whiten_advantages else advantages, returns
        advantages = group_advantages(rewards.sum(1), config.samples_per_prompt, config.advantage)[:, None] * mask
        return advantages, torch.zeros_like(advantages)

    # -- update -------------------------------------------------------------------------------------------------------

    def _optimize(self, rollout: Rollout, rows: list[int], where: str) -> dict[str, float]:
        """Do one optimiser step on this worker's `rows` of a minibatch. Returns the losses as means over tokens.

        Raises LoopError, before the step, if a gradient is not finite; `where` tells the user which responses it came from.
        """
        self.optimizer.zero_grad(set_to_none=False)
        num_tokens = rollout.responses.mask.sum(1)[rows].sum().float()[None]
        num_tokens = parallel.all_sum(num_tokens).clamp(min=1.0)
        sums: dict[str, float] = {}
        size = self.config.micro_batch_size or max(1, len(rows))
        for start in range(0, len(rows), size):
            for name, loss in self._backward(rollout, rows[start : start + size], num_tokens).items():
                sums[name] = sums.get(name, 0.0) + loss.detach().item()
        parallel.sum_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        if not torch.isfinite(norm):
            raise LoopError(f"PPO's gradient is {norm.item()} in {where}: lower ppo.learning_rate, or look at the scores")
        self.optimizer.step()
        means = {name: total / num_tokens.item() * parallel.world_size() for name, total in sums.items()}
        return means | {"grad_norm": norm.item()}

    def _backward(self, rollout: Rollout, rows: list[int], num_tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Add the gradients of the losses on some rows, divided by `num_tokens`. Returns the losses as sums over tokens.

        Each backward pass runs inside its role, because autograd drops gradients of tensors that are no longer marked as trainable.
        """
        config, responses = self.config, rollout.responses.rows(rows)
        mask, index = responses.mask, torch.tensor(rows, device=self.backbone.device)
        old_logprobs, old_values, advantages, returns = (
            tensor[index, : mask.shape[1]] for tensor in (rollout.logprobs, rollout.values, rollout.advantages, rollout.returns)
        )

        def value_loss_on(states: torch.Tensor) -> torch.Tensor:
            values = self.value.values(responses, states)
            return (clipped_value_loss(values, old_values, returns, config.value_clip_range) * mask).sum()

        with self.backbone.role(self.policy, train=True):
            states = responses.states()
            logprobs = responses.logprobs(states)
            ratio = torch.exp(logprobs - old_logprobs)
            policy_loss = (clipped_policy_loss(ratio, advantages, config.clip_range) * mask).sum()
            value_loss = value_loss_on(states) if self.has_critic and not self.value.adapter else policy_loss.new_zeros(())
            ((policy_loss + config.value_coefficient * value_loss) / num_tokens).backward()
        if self.has_critic and self.value.adapter:
            with self.backbone.role(self.value.adapter, train=True):
                value_loss = value_loss_on(responses.states())
                (config.value_coefficient * value_loss / num_tokens).backward()
        clipped = (ratio.detach() - 1.0).abs() > config.clip_range
        return {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "clip_fraction": (clipped * mask).sum().float(),
            "approx_kl": (0.5 * (logprobs.detach() - old_logprobs) ** 2 * mask).sum(),
        }

    def _set_learning_rate(self, update: int) -> None:
        left = 1.0 - update / self.config.num_updates if self.config.learning_rate_schedule == "linear" else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * left

    # -- reports ------------------------------------------------------------------------------------------------------

    def _metrics(self, rollout: Rollout, losses: list[dict[str, float]]) -> dict[str, float]:
        """Return the update's metrics under TRL's names."""
        kl = rollout.kl.sum(1)
        values = {
            "objective/kl": kl,
            "objective/scores": rollout.raw_scores,
            "objective/rlhf_reward": rollout.scores - self.kl.coefficient * kl,
            "val/response_length": rollout.responses.mask.sum(1).float(),
            "val/finished": rollout.finished.float(),
            "policy/entropy_avg": torch.full_like(kl, rollout.entropy),
        }
        metrics = response_metrics(values, self.config.samples_per_prompt) | loss_metrics(losses, kl.device)
        return metrics | {"objective/kl_coefficient": self.kl.coefficient, "lr": self.optimizer.param_groups[0]["lr"]}

    def resident_bytes(self) -> dict[str, int]:
        """Return the bytes of each owner of memory, and the peak (see `memory.py`)."""
        return resident_bytes(self.backbone, self.value.head.parameters(), self.optimizer)


def clipped_policy_loss(ratio: torch.Tensor, advantages: torch.Tensor, clip_range: float) -> torch.Tensor:
    """-min(r A, clip(r, 1 - eps, 1 + eps) A), elementwise. arXiv 1707.06347, equation 7."""
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1.0 - clip_range, 1.0 + clip_range))


def clipped_value_loss(values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip_range: float) -> torch.Tensor:
    """1/2 max((v - R)^2, (clip(v, v_old - eps, v_old + eps) - R)^2), elementwise."""
    clipped = torch.clamp(values, old_values - clip_range, old_values + clip_range)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
