"""Sampling completions, token by token. What is sampled depends on (prompt, seed) only, not on what shares the batch.

Every item brings its own uniform numbers, one a token, and each token is found by inverting the cumulative distribution
in float64. Log-probs may differ in the last bits between batch shapes, so a different token needs a uniform number
within about 1e-7 of a boundary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from configs.schema import GenerationConfig
from policies import parallel
from policies.backbone import Backbone
from policies.tokenization import pad_batch


@dataclass
class Response:
    """One sampled completion. `token_ids` ends with the end token if `finished`."""

    token_ids: list[int]
    finished: bool


@torch.no_grad()
def generate(
    backbone: Backbone,
    adapter: str | None,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    config: GenerationConfig,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Response]:
    """One response for each (prompt ids, seed), decoded `config.batch_size` at a time, shortest prompts first."""
    responses: list[Response | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    with backbone.role(adapter):
        for start in range(0, len(order), config.batch_size):
            rows = order[start : start + config.batch_size]
            decoded = _decode_batch(backbone, [prompts[i] for i in rows], [seeds[i] for i in rows], config)
            for i, response in zip(rows, decoded, strict=True):
                responses[i] = response
            on_progress(start + len(rows))
    return responses  # type: ignore[return-value]


def generate_sharded(
    backbone: Backbone,
    adapter: str | None,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    config: GenerationConfig,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Response]:
    """`generate`, with shards taken from a queue by all workers; every worker gets all the responses."""
    starts = range(0, len(prompts), config.batch_size)
    mine = []
    for shard in parallel.take_shards(len(starts)):
        rows = slice(starts[shard], starts[shard] + config.batch_size)
        mine.append((shard, generate(backbone, adapter, prompts[rows], seeds[rows], config)))
        on_progress(min(rows.stop, len(prompts)))
    return [response for _, part in sorted(parallel.gather(mine), key=lambda item: item[0]) for response in part]


def _decode_batch(backbone: Backbone, prompts: list[Sequence[int]], seeds: list[int], config: GenerationConfig) -> list[Response]:
    from transformers import DynamicCache

    tokenizer, device = backbone.tokenizer, backbone.device
    uniforms = torch.from_numpy(np.stack([_uniforms(seed, config.max_new_tokens) for seed in seeds])).to(device)
    batch = pad_batch(prompts, [[]] * len(prompts), tokenizer.pad_token_id, device)
    width = batch.prompt_length
    input_ids, mask = batch.input_ids[:, :width], batch.attention_mask[:, :width]
    positions = batch.position_ids[:, :width]
    cache = DynamicCache(config=backbone.causal_lm.config)
    tokens: list[torch.Tensor] = []
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for step in range(config.max_new_tokens):
        hidden = backbone.decoder(
            input_ids=input_ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        token = _draw(backbone.logits(hidden), uniforms[:, step], config)
        token = torch.where(done, tokenizer.pad_token_id, token)
        tokens.append(torch.where(done, -1, token))
        done |= token == tokenizer.eos_token_id
        if done.all():
            break
        input_ids, positions = token[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    rows = [[token for token in row if token >= 0] for row in torch.stack(tokens, 1).tolist()]
    return [Response(row, bool(row) and row[-1] == tokenizer.eos_token_id) for row in rows]


def _uniforms(seed: int, count: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def _draw(logits: torch.Tensor, uniforms: torch.Tensor, config: GenerationConfig) -> torch.Tensor:
    """Token ids [B] from logits [B, V] at uniform numbers [B], after temperature, top-k and top-p."""
    probabilities = torch.softmax(logits.double() / config.temperature, dim=-1)
    if config.top_k or config.top_p < 1.0:
        ordered, index = probabilities.sort(dim=-1, descending=True, stable=True)
        if config.top_k:
            ordered[:, config.top_k :] = 0.0
        if config.top_p < 1.0:
            ordered[ordered.cumsum(-1) - ordered > config.top_p] = 0.0
        probabilities = torch.zeros_like(probabilities).scatter(-1, index, ordered)
    cumulative = probabilities.cumsum(-1)
    return torch.searchsorted(cumulative, (uniforms * cumulative[:, -1])[:, None], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
