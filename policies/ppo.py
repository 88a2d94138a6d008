"""Proximal policy optimisation of one adapter against a scoring function. Does not know what a reward model is.

    prompts -> responses -> log-probs, values, reference log-probs -> scores -> rewards -> advantages -> updates

After arXiv 1707.06347, 1909.08593 (language models) and 2403.17031 (the details; ARCHITECTURE.md has them one by one). Fixed, with the
reason: dropout is off (log-probs must be those of the sampler), the score falls on the last token only, where the whole response
is known, the optimiser is AdamW without weight decay, the critic starts as the reward model's head (at random, it first unlearns).
Letters: B batch, P prompt tokens, R response tokens, H hidden, V vocabulary.
"""

import json
import math
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
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
    masked_mean,
    shape_rewards,
    whiten,
)
from policies.backbone import Backbone, stored_bytes
from policies.checkpoints import Checkpoints
from policies.generation import Response, generate, lower_states
from policies.logprobs import logprobs_of, on_grid, response_states
from policies.tokenization import Batch, pad_batch

PIECE = 4
"""Microbatches that go together through a pass without gradients."""

ScoreFunction = Callable[[Sequence[Sequence[int]], Sequence[Response]], torch.Tensor]
"""(prompt ids, responses) -> scores [B], float32."""


@dataclass
class Rollout:
    """What one batch of responses was and was worth when it was sampled. Tensors are [B, R], masked where no token is."""

    batch: Batch
    responses: list[Response]
    logprobs: torch.Tensor
    values: torch.Tensor
    kl: torch.Tensor
    scores: torch.Tensor  # [B], with the missing-end penalty
    advantages: torch.Tensor
    returns: torch.Tensor
    raw_scores: torch.Tensor  # [B]
    entropy: float  # mean nats per token of the sampling distribution
    update: int


class ValueModel:
    """Worth of each state: a linear head on hidden states, of the policy itself or of an adapter of its own.

    The head starts as the reward model's (arXiv 2403.17031, section 7), given as `head` [1, H] and `bias`.
    """

    def __init__(self, backbone: Backbone, head: torch.Tensor, bias: float, adapter: str | None):
        self.head = nn.Linear(backbone.hidden_size, 1).to(backbone.device)
        with torch.no_grad():
            self.head.weight.copy_(head)
            self.head.bias.fill_(bias)
        self.backbone, self.adapter = backbone, adapter

    def parameters(self) -> list[list[nn.Parameter]]:
        """The head's, and those of an adapter of its own."""
        return [list(self.head.parameters()), *([self.backbone.parameters(self.adapter)] if self.adapter else [])]

    def of(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Values [B, R], 0 where masked, of states [M, H]: the policy's, or those that the value adapter sees."""
        return on_grid(self.head(states.to(self.head.weight.dtype))[:, 0], mask)


class PPOTrainer:
    """Trains the adapter `policy` of a backbone. `reference` is the adapter that the KL is measured to (None: the base)."""

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

    def step(self, update: int, prompts: Sequence[Sequence[int]]) -> dict[str, float]:
        """One update on the whole batch of prompts, of which this worker takes its share. Returns the update's metrics.

        `batch_size / samples_per_prompt` prompts; each gets `samples_per_prompt` responses.
        """
        prompts = [prompt for prompt in prompts for _ in range(self.config.samples_per_prompt)]
        self._set_learning_rate(update)
        rollout = self.roll_out(update, prompts)
        with self.backbone.role(self.policy, train=True):
            losses = [self._minibatch(rollout, rows) for rows in self._minibatches(update, len(prompts))]
        metrics = self._record(rollout, losses)
        self.kl.update(metrics["objective/kl"], len(prompts))
        return metrics

    def train(
        self, batches: Sequence[Sequence[Sequence[int]]], checkpoints: Checkpoints, on_progress: Callable[[int, int], None]
    ) -> list[dict[str, float]]:
        """One update a batch of prompts, from the last checkpoint where there is one. Returns the metrics of all updates."""
        log = self._load(checkpoints.newest())
        for update in range(len(log), len(batches)):
            log.append({"update": update} | self.step(update, batches[update]))
            on_progress(update + 1, len(batches))
            if checkpoints.due():
                with checkpoints.saving(update + 1) as folder:
                    self._save(folder, log)
        return log

    def _save(self, folder: Path, log: list[dict[str, float]]) -> None:
        """Everything that the next update depends on; random numbers come from seeds, and need no state."""
        if parallel.is_main():
            tensors = {f"{i}.value": parameter.detach() for i, parameter in enumerate(self.parameters)}
            for i, state in self.optimizer.state_dict()["state"].items():
                tensors |= {f"{i}.{name}": tensor for name, tensor in state.items()}
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / "ppo.safetensors")
            (folder / "ppo.json").write_text(json.dumps({"kl_coefficient": self.kl.coefficient, "log": log}), encoding="utf-8")

    def _load(self, folder: Path | None) -> list[dict[str, float]]:
        if folder is None:
            return []
        saved = json.loads((folder / "ppo.json").read_text(encoding="utf-8"))
        states: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in load_file(folder / "ppo.safetensors").items():
            number, part = name.split(".")
            states.setdefault(int(number), {})[part] = tensor
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters):
                parameter.copy_(states[i].pop("value"))
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": {i: state for i, state in states.items() if state}})
        self.kl.coefficient = saved["kl_coefficient"]
        return saved["log"]

    def resident_bytes(self) -> dict[str, int]:
        """Bytes by owner, and `peak`: of the whole process on a CPU, of the tensors on a GPU."""
        states = [t for state in self.optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
        owners = self.backbone.resident_bytes() | {
            "heads": stored_bytes(self.value.head.parameters()),
            "optimizer": stored_bytes(states),
            "kv_cache": self.backbone.cache_bytes,
        }
        if torch.cuda.is_available():
            return owners | {"peak": torch.cuda.max_memory_allocated()}
        return owners | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}

    # -- rollout ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def roll_out(self, update: int, prompts: Sequence[Sequence[int]]) -> Rollout:
        """Respond to this worker's share of the prompts, and work out what each token was worth."""
        config, mine = self.config, self._mine(len(prompts))
        share = [prompts[i] for i in mine]
        seeds = [derive_seed(self.seed, update, i) for i in mine]
        responses = generate(self.backbone, self.policy, share, seeds, self.generation, trace=True)
        traces = [response.trace for response in responses if response.trace]
        ids = [response.token_ids for response in responses]
        batch = pad_batch(share, ids, self.backbone.tokenizer.pad_token_id, self.backbone.device)
        mask = batch.response_mask
        if config.recompute_logprobs:
            states, logprobs = self._states_and_logprobs(self.policy, batch, responses)
        else:
            states = torch.cat([trace.states for trace in traces])
            logprobs = on_grid(torch.cat([trace.logprobs for trace in traces]), mask)
        if self.value.adapter:
            states, _ = self._states_and_logprobs(self.value.adapter, batch, responses)
        values = self.value.of(states, mask)
        _, reference = self._states_and_logprobs(self.reference, batch, responses)
        raw_scores = self.score(share, responses)
        unfinished = torch.tensor([not r.finished for r in responses], device=raw_scores.device)
        scores = raw_scores - config.missing_end_penalty * unfinished
        kl = kl_per_token(logprobs, reference, config.kl_estimator) * mask
        rewards = shape_rewards(scores, kl, mask, self.kl.coefficient)
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False, reduce=parallel.all_sum)
        if self.has_critic:
            advantages, returns = generalized_advantages(rewards, values, mask, config.gamma, config.gae_lambda)
            if config.whiten_advantages:
                advantages = whiten(advantages, mask, reduce=parallel.all_sum)
        else:
            advantages = group_advantages(rewards.sum(1), config.samples_per_prompt, config.advantage)[:, None] * mask
            returns = torch.zeros_like(advantages)
        entropy = torch.cat([trace.entropies for trace in traces]).mean().item()
        return Rollout(batch, responses, logprobs, values, kl, scores, advantages, returns, raw_scores, entropy, update)

    def _states_and_logprobs(self, adapter: str | None, batch: Batch, responses: list[Response]) -> tuple[torch.Tensor, torch.Tensor]:
        """States [M, H] and log-probs [B, R] of all response tokens under an adapter."""
        states, logprobs = [], []
        with self.backbone.role(adapter):
            for part, lower in self._parts(batch, responses):
                states.append(response_states(self.backbone, part, lower))
                logprobs.append(logprobs_of(self.backbone, states[-1], part, self.generation.temperature)[part.response_mask])
        return torch.cat(states), on_grid(torch.cat(logprobs), batch.response_mask)

    def _parts(self, batch: Batch, responses: list[Response]) -> Iterator[tuple[Batch, torch.Tensor | None]]:
        """The rollout in pieces of a few microbatches: without a backward pass they need no more memory than one with it."""
        size = PIECE * (self.config.micro_batch_size or max(1, len(responses) // self.config.num_minibatches))
        for rows in torch.arange(len(responses), device=self.backbone.device).split(size):
            yield batch.rows(rows), joined(lower_states([responses[i] for i in rows.tolist()]))

    # -- update -----------------------------------------------------------------------------------------------------

    def _minibatch(self, rollout: Rollout, rows: list[int]) -> dict[str, float]:
        """One optimiser step on this worker's `rows` of the minibatch. Raises LoopError before the step where a gradient is not finite."""
        self.optimizer.zero_grad(set_to_none=False)
        lengths = torch.tensor([float(sum(len(rollout.responses[i].token_ids) for i in rows))], device=self.backbone.device)
        num_tokens = parallel.all_sum(lengths).clamp(min=1.0)
        sums: dict[str, float] = {}
        size = self.config.micro_batch_size or max(1, len(rows))
        for start in range(0, len(rows), size):
            losses = self._backward(rollout, rows[start : start + size], num_tokens)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss.detach().item()
        parallel.sum_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        if not torch.isfinite(norm):
            where = f"update {rollout.update}, responses {rows} of the batch"
            raise LoopError(f"PPO's gradient is {norm.item()} in {where}: lower ppo.learning_rate, or look at the scores")
        self.optimizer.step()
        means = {name: total / num_tokens.item() * parallel.world_size() for name, total in sums.items()}
        return means | {"grad_norm": norm.item()}

    def _backward(self, rollout: Rollout, rows: list[int], num_tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Gradients of the losses on some rows, divided by `num_tokens`. Returns the losses as sums over tokens.

        Backward runs inside the role: autograd drops gradients of tensors that are no longer marked trainable.
        """
        index = torch.tensor(rows, device=self.backbone.device)
        batch = rollout.batch.rows(index)
        mask, R = batch.response_mask, batch.response_mask.shape[1]
        old_logprobs, old_values, advantages, returns = (
            tensor[index, :R] for tensor in (rollout.logprobs, rollout.values, rollout.advantages, rollout.returns)
        )
        own_value_adapter = self.value.adapter is not None
        lower = joined(lower_states([rollout.responses[i] for i in rows]))

        def value_loss(states: torch.Tensor) -> torch.Tensor:
            values = self.value.of(states, mask)
            return (clipped_value_loss(values, old_values, returns, self.config.value_clip_range) * mask).sum()

        with self.backbone.role(self.policy, train=True):
            states = response_states(self.backbone, batch, lower)
            logprobs = logprobs_of(self.backbone, states, batch, self.generation.temperature)
            ratio = torch.exp(logprobs - old_logprobs)
            policy_loss = (clipped_policy_loss(ratio, advantages, self.config.clip_range) * mask).sum()
            of_values = value_loss(states) if self.has_critic and not own_value_adapter else policy_loss.new_zeros(())
            ((policy_loss + self.config.value_coefficient * of_values) / num_tokens).backward()
        if self.has_critic and own_value_adapter:
            with self.backbone.role(self.value.adapter, train=True):
                of_values = value_loss(response_states(self.backbone, batch, lower))
                (self.config.value_coefficient * of_values / num_tokens).backward()
        clipped = (ratio.detach() - 1.0).abs() > self.config.clip_range
        return {
            "policy_loss": policy_loss,
            "value_loss": of_values,
            "clip_fraction": (clipped * mask).sum().float(),
            "approx_kl": (0.5 * (logprobs.detach() - old_logprobs) ** 2 * mask).sum(),
        }

    def _minibatches(self, update: int, size: int) -> list[list[int]]:
        """This worker's rows of every minibatch of every epoch. The minibatches are the same for any number of workers."""
        mine = {i: row for row, i in enumerate(self._mine(size))}
        minibatches = []
        for epoch in range(self.config.num_epochs):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, update, "epoch", epoch))
            order = torch.randperm(size, generator=generator)
            for part in order.chunk(self.config.num_minibatches):
                minibatches.append([mine[i] for i in part.tolist() if i in mine])
        return minibatches

    def _mine(self, size: int) -> list[int]:
        """This worker's rows of a batch: every so-many-th prompt, with all its responses."""
        group = self.config.samples_per_prompt
        return [i for i in range(size) if i // group % parallel.world_size() == parallel.rank()]

    def _set_learning_rate(self, update: int) -> None:
        left = 1.0 - update / self.config.num_updates if self.config.learning_rate_schedule == "linear" else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * left

    def _record(self, rollout: Rollout, losses: list[dict[str, float]]) -> dict[str, float]:
        """TRL's names: objective/*, policy/*, val/*; means over all workers' responses."""
        kl = rollout.kl.sum(1)
        lengths = [float(len(r.token_ids)) for r in rollout.responses]
        finished = [float(r.finished) for r in rollout.responses]
        per_row = {
            "objective/kl": kl,
            "objective/scores": rollout.raw_scores,
            "objective/rlhf_reward": rollout.scores - self.kl.coefficient * kl,
            "val/response_length": torch.tensor(lengths, device=kl.device),
            "val/finished": torch.tensor(finished, device=kl.device),
            "policy/entropy_avg": torch.full_like(kl, rollout.entropy),
        }
        metrics = {name: masked_mean(value, torch.ones_like(value), parallel.all_sum).item() for name, value in per_row.items()}
        for name in ("objective/kl", "objective/scores"):
            metrics[f"{name}_standard_error"] = self._standard_error(per_row[name], metrics[name])
        names = {
            "policy_loss": "loss/policy_avg",
            "value_loss": "loss/value_avg",
            "clip_fraction": "policy/clipfrac_avg",
            "approx_kl": "policy/approxkl_avg",
            "grad_norm": "policy/grad_norm",
        }
        averages = torch.tensor([sum(loss.get(key, 0.0) for loss in losses) / len(losses) for key in names], device=kl.device)
        averages = parallel.all_sum(averages) / parallel.world_size()
        metrics |= dict(zip(names.values(), averages.tolist(), strict=True))
        return metrics | {"objective/kl_coefficient": self.kl.coefficient, "lr": self.optimizer.param_groups[0]["lr"]}

    def _standard_error(self, values: torch.Tensor, mean: float) -> float:
        """Of the mean over all workers' responses, [B] here; a prompt's responses count as one. 0 where there is one prompt only."""
        deviations = values.view(-1, self.config.samples_per_prompt).mean(1).double() - mean
        squares, number = parallel.all_sum(torch.stack([deviations.square().sum(), deviations.new_tensor(len(deviations))])).tolist()
        return math.sqrt(squares / max(1.0, number - 1) / number)


def joined(parts: list[torch.Tensor] | None) -> torch.Tensor | None:
    """Row after row, as `Backbone.hidden_states` takes them."""
    return torch.cat(parts) if parts else None


def clipped_policy_loss(ratio: torch.Tensor, advantages: torch.Tensor, clip_range: float) -> torch.Tensor:
    """-min(r A, clip(r, 1 - eps, 1 + eps) A), elementwise. arXiv 1707.06347, equation 7."""
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1.0 - clip_range, 1.0 + clip_range))


def clipped_value_loss(values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip_range: float) -> torch.Tensor:
    """1/2 max((v - R)^2, (clip(v, v_old - eps, v_old + eps) - R)^2), elementwise."""
    clipped = torch.clamp(values, old_values - clip_range, old_values + clip_range)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def prompt_batches(num_prompts: int, batch_size: int, num_updates: int, seed: int) -> list[list[int]]:
    """Which prompts each update sees: one random order after another, without a prompt twice in a pass."""
    rows: list[int] = []
    passes = 0
    while len(rows) < batch_size * num_updates:
        generator = torch.Generator().manual_seed(derive_seed(seed, "pass", passes))
        rows += torch.randperm(num_prompts, generator=generator).tolist()
        passes += 1
    return [rows[i * batch_size : (i + 1) * batch_size] for i in range(num_updates)]


def interpolate(states: tuple[dict[str, Any], dict[str, Any]], weight: float) -> dict[str, Any]:
    """(1 - weight) x first + weight x second, tensor by tensor (adapters of one shape)."""
    first, second = states
    return {key: torch.lerp(first[key].float(), second[key].float(), weight) for key in first}
