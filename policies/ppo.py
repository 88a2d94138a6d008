"""Proximal policy optimization (PPO) of one adapter against a score function. It does not know what a reward model is.

    prompts -> responses -> log-probs, values, reference log-probs -> scores -> rewards -> advantages -> updates

After arXiv 1707.06347, 1909.08593 (language models) and 2403.17031 (the details; `docs/ppo.md` lists them, with those of later papers). The
losses are in `losses.py`, and what a token was worth is in `advantages.py`. Some choices are fixed:
- Dropout is off, because the log-probs must be those of the sampler.
- The score is added to the reward of the last token only, because only then the whole response is known.
- The optimizer is AdamW without weight decay.
- The critic starts as the reward model's head. A random one would first have to be unlearned.

Letters: B batch, R response tokens, M real response tokens of a batch, H hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from configs.errors import LoopError
from configs.schema import GenerationConfig, PPOConfig
from configs.seeds import derive_seed
from policies import losses, parallel
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
from policies.guard import Guard
from policies.memory import resident_bytes
from policies.ppo_checkpoints import load_state, save_state
from policies.ppo_metrics import kl_of_a_token, loss_metrics, mean_approx_kl, response_metrics
from policies.reporting import Report
from policies.responses import EncodedPrompt, ResponseBatch, ResponseRecord, ScoreFunction, make_records, mean_entropy
from policies.tokenization import last_turn

MICRO_BATCHES_PER_PASS = 4
"""A pass without gradients takes this many micro-batches at a time. It then needs no more memory than a pass with gradients."""


@dataclass
class Rollout:
    """Responses, and what they were worth when they were sampled. The values of masked tokens are 0."""

    responses: ResponseBatch
    logprobs: torch.Tensor  # [B, R]
    reference: torch.Tensor | None  # [B, R], log-probs; None if the KL is not measured
    values: torch.Tensor  # [B, R]
    kl: torch.Tensor  # [B, R], nats to the reference
    advantages: torch.Tensor  # [B, R]
    returns: torch.Tensor  # [B, R]
    raw_scores: torch.Tensor  # [B]
    scores: torch.Tensor  # [B], with the penalty for a missing end token
    finished: torch.Tensor  # [B] bool
    entropy: float  # mean nats per token of the sampling distribution

    def rows(self, rows: list[int]) -> "Rollout":
        """Return some of the rows, without the columns that are padding in all of them."""
        responses, index = self.responses.rows(rows), torch.tensor(rows, device=self.finished.device)
        columns = responses.mask.shape[1]
        tensors: dict[str, Any] = {name: tensor[index] for name, tensor in vars(self).items() if isinstance(tensor, torch.Tensor)}
        cut = {name: tensor[:, :columns] if tensor.dim() == 2 else tensor for name, tensor in tensors.items()}
        return replace(self, responses=responses, **cut)


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

    def loss(self, part: Rollout, states: torch.Tensor, clip_range: float) -> torch.Tensor:
        """Return the clipped loss on some rows as a sum over tokens, given their states [M, H]."""
        values = losses.clipped_value_loss(self.values(part.responses, states), part.values, part.returns, clip_range)
        return losses.summed(values, part.responses.mask, "token")


class PPOTrainer:
    """Trains the adapter `policy` of a backbone. The KL is measured to the adapter `reference` (None: the bare base).

    value: the critic, which is not used if the config's advantages need none.
    """

    def __init__(
        self,
        backbone: Backbone,
        value: ValueModel | None,
        score: ScoreFunction,
        config: PPOConfig,
        generation: GenerationConfig,
        seed: int,
        policy: str = "policy",
        reference: str | None = "sft",
    ):
        self.backbone, self.score, self.config, self.generation = backbone, score, config, generation
        self.policy, self.reference, self.seed = policy, reference, seed
        self.value = value if config.has_critic else None
        self.newest = ""
        """One of the newest responses with its score and its prompt, for people to read."""
        self.kl = KLController(config.kl_coefficient, config.kl_target, config.kl_horizon)
        owners = [backbone.parameters(policy), *(self.value.parameters() if self.value else [])]
        self.parameters = [parallel.flattened(parameters) for parameters in owners]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, eps=config.adam_epsilon, weight_decay=0.0, fused=True)

    def train(
        self, batches: Sequence[Sequence[EncodedPrompt]], checkpoints: Checkpoints, report: Report, guard: Guard | None = None
    ) -> list[dict[str, float]]:
        """Do one update for each batch of prompts, starting from the last checkpoint. Returns the metrics of all updates.

        guard: looks at the policy meanwhile. It may end the training early, and give the policy the parameters of an earlier update.
        """
        guard = guard or Guard()
        state = self.parameters, self.optimizer, self.kl, guard
        log = load_state(checkpoints.newest(), *state)
        while len(log) < len(batches) and not guard.has_ended:
            update, done = len(log), len(log) + 1
            log.append({"update": update} | self.step(update, batches[update]))
            guard.after(done, done == len(batches), self.parameters[0], kl_of_a_token(log[-1]))
            report(done, len(batches), log[-1], [self.newest], guard.alarm.alarm if guard.alarm else "")
            if checkpoints.due():
                with checkpoints.saving(done) as folder:
                    save_state(folder, *state, log)
        guard.settle(self.parameters[0])
        return log

    def step(self, update: int, prompts: Sequence[EncodedPrompt]) -> dict[str, float]:
        """Do one update on a batch of `batch_size / samples_per_prompt` prompts. Returns its metrics.

        Every worker gets the whole batch and takes its own part of it.
        """
        config, size = self.config, len(prompts) * self.config.samples_per_prompt
        self._set_learning_rate(update)
        rollout = self.roll_out(update, prompts)
        metrics = self._metrics(rollout, self._optimize(update, rollout, size), self._weights(update))
        if "objective/kl" in metrics and update >= config.value_warmup_updates:
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
        values = self._values(responses, states)
        reference = self._run(responses, self.reference)[1] if config.kl_coefficient else None

        raw_scores = torch.as_tensor(self.score(records), dtype=torch.float32, device=self.backbone.device)
        self.newest = f"score {float(raw_scores[0]):.2f}\n{last_turn(records[0].prompt)}\n{records[0].completion}"
        finished = torch.tensor([record.finished for record in records], device=raw_scores.device)
        scores = raw_scores - config.missing_end_penalty * ~finished
        kl = torch.zeros_like(logprobs) if reference is None else kl_per_token(logprobs, reference, config.kl_estimator_used)
        kl = kl * responses.mask
        rewards = shape_rewards(scores, kl, responses.mask, 0.0 if config.kl_is_in_loss else self.kl.coefficient)
        advantages, returns = self._advantages(rewards, values, responses.mask)
        entropy = mean_entropy(records)
        return Rollout(responses, logprobs, reference, values, kl, advantages, returns, raw_scores, scores, finished, entropy)

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

    def _values(self, responses: ResponseBatch, states: torch.Tensor) -> torch.Tensor:
        """Return the critic's values [B, R], given the policy's states [M, H]. Without a critic they are 0."""
        if self.value is None:
            return torch.zeros(responses.mask.shape, device=self.backbone.device)
        if self.value.adapter:
            states, _ = self._run(responses, self.value.adapter)
        return self.value.values(responses, states)

    def _advantages(self, rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return advantages and returns, [B, R] each. Without a critic, advantages compare the responses to one prompt."""
        config = self.config
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False, reduce=parallel.all_sum)
        if self.value:
            advantages, returns = generalized_advantages(rewards, values, mask, config.gamma, config.gae_lambda)
            return whiten(advantages, mask, reduce=parallel.all_sum) if config.whiten_advantages else advantages, returns
        totals, size = rewards.sum(1), config.samples_per_prompt
        advantages = group_advantages(totals, size, config.advantage, config.scale_rewards, parallel.all_sum)[:, None] * mask
        return advantages, torch.zeros_like(advantages)

    # -- update -------------------------------------------------------------------------------------------------------

    def _optimize(self, update: int, rollout: Rollout, size: int) -> list[dict[str, float]]:
        """Do the optimizer steps of an update on a batch of `size` responses. Returns the losses of each minibatch."""
        config, weights, found = self.config, self._weights(update), []
        counted = rollout.finished.tolist() if config.mask_truncated else [True] * len(rollout.responses)
        with self.backbone.role(self.policy, train=True):
            for epoch in range(config.num_epochs):
                parts = minibatches(size, config.samples_per_prompt, config.num_minibatches, epoch, self.seed, update)
                parts = [[row for row in rows if counted[row]] for rows in parts]
                in_epoch = [self._step_on(rollout, rows, weights, f"update {update}, responses {rows} of the batch") for rows in parts]
                found += in_epoch
                if config.target_kl and mean_approx_kl(in_epoch, self.backbone.device) > config.target_kl:
                    break
        return found

    def _weights(self, update: int) -> dict[str, float]:
        """Return the weight of each part of the loss. While the critic warms up, there is only its own."""
        config = self.config
        weights = {"value_loss": config.value_coefficient} if self.value else {}
        if update < config.value_warmup_updates:
            return weights
        weights["policy_loss"] = 1.0
        if config.kl_is_in_loss and config.kl_coefficient:
            weights["kl_loss"] = self.kl.coefficient
        if config.entropy_coefficient:
            weights["entropy"] = -config.entropy_coefficient
        return weights

    def _step_on(self, rollout: Rollout, rows: list[int], weights: dict[str, float], where: str) -> dict[str, float]:
        """Do one optimizer step on this worker's `rows` of a minibatch. Returns the losses as means.

        Raises LoopError, before the step, if a gradient is not finite; `where` tells the user which responses it came from.
        """
        self.optimizer.zero_grad(set_to_none=False)
        divisors = self._divisors(rollout, rows)
        sums: dict[str, float] = {}
        size = self.config.micro_batch_size or max(1, len(rows))
        for start in range(0, len(rows), size):
            for name, loss in self._backward(rollout.rows(rows[start : start + size]), weights, divisors).items():
                sums[name] = sums.get(name, 0.0) + loss.detach().item()
        parallel.sum_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        if not torch.isfinite(norm):
            raise LoopError(f"PPO's gradient is {norm.item()} in {where}: lower ppo.learning_rate, or look at the scores")
        policy, gradient = self.parameters[0], self.parameters[0].grad
        policy.grad = gradient if "policy_loss" in weights else None  # None: the optimizer leaves it and its moments as they are
        self.optimizer.step()
        policy.grad = gradient
        means = {name: total / divisors[name].item() * parallel.world_size() for name, total in sums.items()}
        return means | {"grad_norm": norm.item()}

    def _divisors(self, rollout: Rollout, rows: list[int]) -> dict[str, torch.Tensor]:
        """Return what the sum of each loss is divided by, for a minibatch of which this worker has `rows`."""
        mask = rollout.responses.mask
        counts = torch.stack([mask.sum(1)[rows].sum(), torch.tensor(len(rows), device=mask.device)]).float()
        num_tokens, num_responses = parallel.all_sum(counts).clamp(min=1.0)
        of_policy = losses.divisor(self.config.loss_type, num_tokens, num_responses, self.generation.max_new_tokens)
        by_loss_type = dict.fromkeys(("policy_loss", "kl_loss", "entropy"), of_policy)
        return by_loss_type | dict.fromkeys(("value_loss", "clip_fraction", "approx_kl"), num_tokens)

    def _backward(self, part: Rollout, weights: dict[str, float], divisors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Add the gradients of the losses on a part of a minibatch, weighted and divided. Returns the losses as sums.

        Each backward pass runs inside its role, because autograd drops gradients of tensors that are no longer marked as trainable.
        """

        def add_gradients(sums: dict[str, torch.Tensor]) -> None:
            if used := [weights[name] * loss / divisors[name] for name, loss in sums.items() if name in weights]:
                torch.stack(used).sum().backward()

        with self.backbone.role(self.policy, train=True):
            with torch.set_grad_enabled("policy_loss" in weights):
                states = part.responses.states()
                found = self._policy_losses(part, states, weights)
            if self.value and not self.value.adapter:
                found["value_loss"] = self.value.loss(part, states, self.config.value_clip_range)
            add_gradients(found)
        if self.value and self.value.adapter:
            with self.backbone.role(self.value.adapter, train=True):
                found["value_loss"] = self.value.loss(part, part.responses.states(), self.config.value_clip_range)
                add_gradients({"value_loss": found["value_loss"]})
        return found

    def _policy_losses(self, part: Rollout, states: torch.Tensor, weights: dict[str, float]) -> dict[str, torch.Tensor]:
        """Return the losses of the policy as sums: the clipped loss, those that `weights` asks for, and how far the policy has moved."""
        config, responses, mask = self.config, part.responses, part.responses.mask
        logprobs = responses.logprobs(states)
        log_ratio = logprobs - part.logprobs
        ratio, clip_range = losses.importance_ratio(log_ratio, mask, config.importance_ratio), (config.clip_range, config.clip_range_high)
        values = {"policy_loss": losses.clipped_policy_loss(ratio, part.advantages, *clip_range)}
        if "kl_loss" in weights and part.reference is not None:
            values["kl_loss"] = kl_per_token(logprobs, part.reference, config.kl_estimator_used)
        if "entropy" in weights:
            values["entropy"] = responses.entropies(states)
        moved = {"clip_fraction": losses.is_clipped(ratio.detach(), *clip_range), "approx_kl": 0.5 * log_ratio.detach() ** 2}
        sums = {name: losses.summed(value, mask, config.loss_type) for name, value in values.items()}
        return sums | {name: (value * mask).sum().float() for name, value in moved.items()}

    def _set_learning_rate(self, update: int) -> None:
        left = 1.0 - update / self.config.num_updates if self.config.learning_rate_schedule == "linear" else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * left

    # -- reports ------------------------------------------------------------------------------------------------------

    def _metrics(self, rollout: Rollout, found: list[dict[str, float]], weights: dict[str, float]) -> dict[str, float]:
        """Return the update's metrics under TRL's names, given the losses of its minibatches."""
        kl = rollout.kl.sum(1)
        values = {
            "objective/kl": kl,
            "objective/scores": rollout.raw_scores,
            "objective/rlhf_reward": rollout.scores - self.kl.coefficient * kl,
            "val/response_length": rollout.responses.mask.sum(1).float(),
            "val/finished": rollout.finished.float(),
            "policy/entropy_avg": torch.full_like(kl, rollout.entropy),
        }
        if rollout.reference is None:
            del values["objective/kl"]
        metrics = response_metrics(values, self.config.samples_per_prompt) | loss_metrics(found, weights, kl.device)
        if self.config.target_kl:
            metrics["policy/num_epochs"] = len(found) / self.config.num_minibatches
        return metrics | {"objective/kl_coefficient": self.kl.coefficient, "lr": self.optimizer.param_groups[0]["lr"]}

    def resident_bytes(self) -> dict[str, int]:
        """Return the bytes of each owner of memory, and the peak (see `memory.py`)."""
        return resident_bytes(self.backbone, self.value.head.parameters() if self.value else (), self.optimizer)
