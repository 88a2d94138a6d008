"""Sampling completions, token by token. What is sampled depends on (prompt, seed) only, not on what shares the batch.

Every item brings its own uniform numbers, one a token, and each token is found by inverting the cumulative distribution
in float64. Log-probs may differ in the last bits between batch shapes, so a different token needs a uniform number
within about 1e-7 of a boundary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from configs.schema import GenerationConfig
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.fast.sampling import ROWS, Passes, decoder
from policies.tokenization import Batch, pad_batch

SHRINK = 0.8
"""Ended rows leave the batch, but for a multiple of ROWS, when no more than this share would stay: leaving costs a copy of the cache."""


@dataclass
class Trace:
    """What the model thought while it sampled a response. P prompt tokens, R response tokens, H hidden."""

    logprobs: torch.Tensor  # [R], at the sampling temperature, before top-k and top-p
    entropies: torch.Tensor  # [R], nats
    states: torch.Tensor  # [R, H]: the states that predicted the tokens
    lower: torch.Tensor | None  # [P + R, H]: what entered the backbone's `first_layer`, where that is not 0


@dataclass
class Response:
    """One sampled completion. `token_ids` ends with the end token if `finished`."""

    token_ids: list[int]
    finished: bool
    trace: Trace | None = field(default=None, compare=False, repr=False)


def lower_states(responses: Sequence[Response]) -> list[torch.Tensor] | None:
    """The traces' lower states, where all have them."""
    found = [response.trace.lower for response in responses if response.trace and response.trace.lower is not None]
    return found if found and len(found) == len(responses) else None


@torch.no_grad()
def generate(
    backbone: Backbone,
    adapter: str | None,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    config: GenerationConfig,
    on_progress: Callable[[int], None] = lambda done: None,
    trace: bool = False,
) -> list[Response]:
    """One response for each (prompt ids, seed), decoded `config.batch_size` at a time, shortest prompts first.

    trace: keep what PPO would otherwise compute again.
    """
    responses: list[Response | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    with decoder(backbone, adapter) as begin:
        for start in range(0, len(order), config.batch_size):
            rows = order[start : start + config.batch_size]
            decoded = _decode_batch(backbone, begin, [prompts[i] for i in rows], [seeds[i] for i in rows], config, trace)
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
    checkpoints: Checkpoints,
    name: str,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Response]:
    """`generate`, in shards taken from a queue by all workers; every worker gets all the responses.

    `checkpoints` keeps the finished shards under `name`.
    """

    def respond(items: Sequence[tuple[Sequence[int], int]]) -> list[tuple[list[int], bool]]:
        found = generate(backbone, adapter, [prompt for prompt, _ in items], [seed for _, seed in items], config)
        return [(response.token_ids, response.finished) for response in found]

    items = list(zip(prompts, seeds, strict=True))
    return [Response(*plain) for plain in checkpoints.in_shards(name, items, config.batch_size, respond, on_progress)]


def _decode_batch(
    backbone: Backbone,
    begin: Callable[[Batch, int], Passes],
    prompts: list[Sequence[int]],
    seeds: list[int],
    config: GenerationConfig,
    trace: bool,
) -> list[Response]:
    """Token by token. Rows that have ended leave the batch once they are a fifth of it."""
    tokenizer, device, R = backbone.tokenizer, backbone.device, config.max_new_tokens
    B = len(prompts)
    uniforms = torch.from_numpy(np.stack([_uniforms(seed, R) for seed in seeds])).to(device)
    batch = pad_batch(prompts, [[]] * B, tokenizer.pad_token_id, device)
    P = batch.prompt_length
    passes = begin(batch, P + R)
    tokens = torch.full((B, R), -1, device=device)
    kept = _Kept(B, P, R) if trace else None
    feed_last = trace and backbone.first_layer > 0  # the lower states of a response's last token are wanted too
    rows = torch.arange(B, device=device)  # which prompt each row of the shrinking batch belongs to
    running = torch.ones(B, dtype=torch.bool, device=device)
    hidden = passes.prompts()
    backbone.cache_bytes = max(backbone.cache_bytes, passes.cache_bytes)
    if kept and passes.lower is not None:
        kept.keep_lower(*batch.attention_mask[:, :P].nonzero(as_tuple=True), passes.lower)
    for step in range(R):
        logits = passes.logits(hidden)
        token = _draw(logits, uniforms[rows, step], config)
        if kept:
            kept.keep(rows, step, hidden, logits / config.temperature, token)
        tokens[rows[running], step] = token[running]
        still = running & (token != tokenizer.eos_token_id)
        fed, running = running if feed_last else still, still
        if not fed.any() or (step == R - 1 and not feed_last):
            break
        wanted = -(-int(fed.sum()) // ROWS) * ROWS
        if wanted <= SHRINK * len(rows):
            stay = fed.logical_not().argsort(stable=True)[:wanted]
            passes.keep(stay)
            rows, running, token = rows[stay], running[stay], token[stay]
        hidden = passes.tokens(token)
        if kept and passes.lower is not None:
            kept.keep_lower(rows, P + step, passes.lower)
        if not running.any():
            break
    responses = []
    for i, row in enumerate(tokens.tolist()):
        ids = [token for token in row if token >= 0]
        responses.append(Response(ids, ids[-1] == tokenizer.eos_token_id, kept.trace(i, len(prompts[i]), len(ids)) if kept else None))
    return responses


class _Kept:
    """Buffers for the traces of one decoded batch of B rows, P prompt columns, R response columns."""

    def __init__(self, B: int, P: int, R: int):
        self.shape, self.P = (B, P + R), P
        self.buffers: dict[str, torch.Tensor] = {}

    def keep(self, rows: torch.Tensor, step: int, hidden: torch.Tensor, logits: torch.Tensor, token: torch.Tensor) -> None:
        """What step `step` thought of its token. hidden [b, H], logits [b, V], token [b]."""
        distribution = logits.log_softmax(-1)
        self._write("states", rows, self.P + step, hidden)
        self._write("logprobs", rows, self.P + step, distribution.gather(-1, token[:, None])[:, 0])
        self._write("entropies", rows, self.P + step, -(distribution.exp() * distribution).sum(-1))

    def keep_lower(self, rows: torch.Tensor, columns: torch.Tensor | int, states: torch.Tensor) -> None:
        """states [n, H] of n tokens of the prompts, or of one token a row."""
        self._write("lower", rows, columns, states)

    def trace(self, row: int, prompt_length: int, length: int) -> Trace:
        response = slice(self.P, self.P + length)
        lower = self.buffers["lower"][row, self.P - prompt_length : self.P + length] if "lower" in self.buffers else None
        return Trace(*(self.buffers[name][row, response] for name in ("logprobs", "entropies", "states")), lower)

    def _write(self, name: str, rows: torch.Tensor, columns: torch.Tensor | int, values: torch.Tensor) -> None:
        if name not in self.buffers:
            self.buffers[name] = values.new_zeros((*self.shape, *values.shape[1:]))
        self.buffers[name][rows, columns] = values


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
