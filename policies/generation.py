"""Sampling responses, token by token. A response depends on its prompt and its seed only, not on the rest of the batch.

Each item has its own uniform random numbers, one for each token. A token is found by inverting the cumulative distribution in float64.
Log-probs may differ in their last bits between batch shapes, so a different token needs a random number within about 1e-6 of a boundary.
That is rare: of 1,024 responses with 12 tokens, one or two change when the batch has another size.

Letters: B rows, P prompt columns, R response columns, V vocabulary, H hidden.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from configs.errors import LoopError
from configs.schema import GenerationConfig
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.fast.batches import Batch
from policies.fast.sampling import ROWS, Decoding, MergedDecoding, MergedModel, TransformersDecoding
from policies.responses import Response, Trace
from policies.tokenization import end_tokens, holds_stop_string

SHRINK = 0.8
"""Rows that have ended leave the batch when at most this fraction of it would remain. Leaving costs a copy of the KV cache. The remaining
rows are rounded up to a multiple of ROWS."""


@torch.no_grad()
def generate(
    backbone: Backbone,
    adapter: str | None,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    config: GenerationConfig,
    trace: bool = False,
) -> list[Response]:
    """Return one response for each pair of prompt ids and seed, decoded `config.batch_size` at a time, shortest prompts first.

    trace: keep what PPO would otherwise compute again. Raises LoopError if the model's logits are no numbers.
    """
    responses: list[Response | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    with _decoder_under(backbone, adapter) as begin:
        for start in range(0, len(order), config.batch_size):
            rows = order[start : start + config.batch_size]
            decoded, masses = _decode_batch(backbone, begin, [prompts[i] for i in rows], [seeds[i] for i in rows], config, trace)
            _check_finite(masses, adapter, backbone)
            for i, response in zip(rows, decoded, strict=True):
                responses[i] = response
    return responses  # type: ignore[return-value]


def generate_sharded(
    backbone: Backbone,
    adapter: str | None,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    config: GenerationConfig,
    checkpoints: Checkpoints,
    name: str,
    on_shard: Callable[[int, list[Response]], None] = lambda done, responses: None,
) -> list[Response]:
    """Like `generate`, in shards that all workers take from one queue. Every worker gets all responses.

    `checkpoints` keeps the finished shards under `name`. `on_shard` is called after each of them, with the number of prompts up to its end.
    """

    def respond(items: Sequence[tuple[Sequence[int], int]]) -> list[tuple[list[int], bool]]:
        found = generate(backbone, adapter, [prompt for prompt, _ in items], [seed for _, seed in items], config)
        return [(response.token_ids, response.finished) for response in found]

    def read(plain: Sequence[tuple[list[int], bool]]) -> list[Response]:
        return [Response(token_ids, finished) for token_ids, finished in plain]

    items = list(zip(prompts, seeds, strict=True))
    return read(checkpoints.in_shards(name, items, config.batch_size, respond, lambda done, shard: on_shard(done, read(shard))))


@contextmanager
def _decoder_under(backbone: Backbone, adapter: str | None) -> Iterator[Callable[[Batch, int], Decoding]]:
    """Yield a function that starts decoding under an adapter. It takes a batch of prompts and the largest number of tokens in a row."""
    with backbone.role(adapter):
        merged = MergedModel.try_merging(backbone.fast, backbone.tokenizer.pad_token_id)
        if merged is not None:
            yield lambda batch, capacity: MergedDecoding(merged, batch, capacity)
            return
    with backbone.role(adapter) if backbone.sharded else backbone.merged(adapter):
        yield lambda batch, capacity: TransformersDecoding(backbone.fast, batch, capacity)


def _decode_batch(
    backbone: Backbone,
    begin: Callable[[Batch, int], Decoding],
    prompts: list[Sequence[int]],
    seeds: list[int],
    config: GenerationConfig,
    trace: bool,
) -> tuple[list[Response], list[torch.Tensor]]:
    """Decode one batch token by token. Rows that have ended leave it (see SHRINK).

    Returns the responses, and for each step what `_draw` says of the rows that were still there.
    """
    B, R, endings = len(prompts), config.max_new_tokens, _Endings(backbone, config.stop_strings)
    batch = backbone.pad(prompts, [[]] * B)
    P, device = batch.prompt_length, backbone.device
    uniforms = torch.from_numpy(np.stack([_uniforms(seed, R) for seed in seeds])).to(device)
    tokens = torch.full((B, R), -1, device=device)
    buffers = _TraceBuffers(B, P, R) if trace else None
    run_last = trace and backbone.start_layer > 0  # the start states of a response's last token are wanted too
    rows = torch.arange(B, device=device)  # the prompt that each row of the shrinking batch belongs to
    running = torch.ones(B, dtype=torch.bool, device=device)
    decoding = begin(batch, P + R)
    hidden, masses = decoding.prefill(), []
    if buffers and decoding.start_states is not None:
        prompt_rows, columns = batch.attention_mask[:, :P].nonzero(as_tuple=True)
        buffers.keep_start(prompt_rows, columns, decoding.start_states)
    for step in range(R):
        logits = decoding.logits(hidden)
        token, mass = _draw(logits, uniforms[rows, step], config)
        masses.append(mass)
        if buffers:
            buffers.keep(rows, step, hidden, logits / config.temperature, token)
        tokens[rows[running], step] = token[running]
        still = running & ~endings.at(token, tokens[rows, : step + 1])
        needed, running = running if run_last else still, still
        if not needed.any() or (step == R - 1 and not run_last):
            break
        remaining = -(-int(needed.sum()) // ROWS) * ROWS
        if remaining <= SHRINK * len(rows):
            stay = needed.logical_not().argsort(stable=True)[:remaining]
            decoding.keep(stay)
            rows, running, token = rows[stay], running[stay], token[stay]
        hidden = decoding.step(token)
        if buffers and decoding.start_states is not None:
            buffers.keep_start(rows, P + step, decoding.start_states)
        if not running.any():
            break
    responses = []
    for i, row in enumerate(tokens.tolist()):
        ids = [token for token in row if token >= 0]
        responses.append(Response(ids, endings.finish(ids), buffers.trace(i, len(prompts[i]), len(ids)) if buffers else None))
    return responses, masses


def _check_finite(masses: Sequence[torch.Tensor], adapter: str | None, backbone: Backbone) -> None:
    """Raise LoopError if a distribution that a token was drawn from was not one. masses: what `_draw` says, for each step.

    It is looked at after a batch, and not after each token, because a GPU would have to be waited for each time.
    """
    if torch.cat(list(masses)).isfinite().all():
        return
    step, mass = next((step, mass) for step, mass in enumerate(masses) if not mass.isfinite().all())
    raise LoopError(
        f"the logits of {int((~mass.isfinite()).sum())} of {len(mass)} responses are not finite when their token {step + 1} is sampled\n"
        f"  where: the policy {adapter or 'without an adapter'!r} on the base {backbone.name or 'model'}, in {backbone.causal_lm.dtype}\n"
        "  to do: lower the learning rate of the stage that trained this policy, or set base.dtype=float32; if the base itself does this "
        "before any training, its weights are damaged"
    )


class _Endings:
    """What ends a response: one of the model's end tokens, or a stop string in its text."""

    def __init__(self, backbone: Backbone, stop_strings: Sequence[str]):
        self.tokenizer, self.stop_strings = backbone.tokenizer, stop_strings
        self.ids = end_tokens(backbone.tokenizer)
        self.tokens = torch.tensor(self.ids, device=backbone.device)

    def at(self, token: torch.Tensor, so_far: torch.Tensor) -> torch.Tensor:
        """Tell for each row whether its newest token [b] ends the response so_far [b, steps], which has that token in the last place.

        The answer for a row that has ended before means nothing.
        """
        ended = (token[:, None] == self.tokens).any(1)
        if self.stop_strings:
            stopped = [self._stops([id for id in row if id >= 0]) for row in so_far.tolist()]
            ended |= torch.tensor(stopped, device=ended.device)
        return ended

    def finish(self, ids: list[int]) -> bool:
        """Tell whether these ids of a whole response end with an end token or in a stop string."""
        return ids[-1] in self.ids or self._stops(ids)

    def _stops(self, ids: list[int]) -> bool:
        return bool(self.stop_strings) and holds_stop_string(self.tokenizer, ids, self.stop_strings)


class _TraceBuffers:
    """Room for the traces of one batch of B rows, P prompt columns and R response columns."""

    def __init__(self, B: int, P: int, R: int):
        self.shape, self.P = (B, P + R), P
        self.buffers: dict[str, torch.Tensor] = {}

    def keep(self, rows: torch.Tensor, step: int, hidden: torch.Tensor, logits: torch.Tensor, token: torch.Tensor) -> None:
        """Keep what predicted the token of a step. hidden [b, H], logits [b, V], token [b]."""
        distribution = logits.log_softmax(-1)
        self._write("states", rows, self.P + step, hidden)
        self._write("logprobs", rows, self.P + step, distribution.gather(-1, token[:, None])[:, 0])
        self._write("entropies", rows, self.P + step, -(distribution.exp() * distribution).sum(-1))

    def keep_start(self, rows: torch.Tensor, columns: torch.Tensor | int, states: torch.Tensor) -> None:
        """Keep the start states [n, H] of n tokens of the prompts, or of one token of each row."""
        self._write("start_states", rows, columns, states)

    def trace(self, row: int, prompt_length: int, length: int) -> Trace:
        """Return the trace of a response of `length` tokens."""
        response = slice(self.P, self.P + length)
        whole = slice(self.P - prompt_length, self.P + length)
        start_states = self.buffers["start_states"][row, whole] if "start_states" in self.buffers else None
        logprobs, entropies, states = (self.buffers[name][row, response] for name in ("logprobs", "entropies", "states"))
        return Trace(logprobs, entropies, states, start_states)

    def _write(self, name: str, rows: torch.Tensor, columns: torch.Tensor | int, values: torch.Tensor) -> None:
        if name not in self.buffers:
            self.buffers[name] = values.new_zeros((*self.shape, *values.shape[1:]))
        self.buffers[name][rows, columns] = values


def _uniforms(seed: int, count: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def _draw(logits: torch.Tensor, uniforms: torch.Tensor, config: GenerationConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the token ids [B] that uniform random numbers [B] select from logits [B, V], after temperature, top-k and top-p.

    Returns also the probability [B] of all tokens that could be selected. It is not finite if the logits are no numbers or infinite.
    """
    probabilities = torch.softmax(logits.double() / config.temperature, dim=-1)
    if config.top_k or config.top_p < 1.0:
        ordered, index = probabilities.sort(dim=-1, descending=True, stable=True)
        if config.top_k:
            ordered[:, config.top_k :] = 0.0
        if config.top_p < 1.0:
            ordered[ordered.cumsum(-1) - ordered > config.top_p] = 0.0
        probabilities = torch.zeros_like(probabilities).scatter(-1, index, ordered)
    cumulative = probabilities.cumsum(-1)
    mass = cumulative[:, -1]
    return torch.searchsorted(cumulative, (uniforms * mass)[:, None], right=True)[:, 0].clamp(max=logits.shape[-1] - 1), mass
