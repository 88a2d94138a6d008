"""Compares a model's fast paths with transformers' forward pass when the model is loaded, and keeps those that agree.

The standard is transformers' own forward pass on each row alone, without padding, mask or cache (`rows_to_compare` makes the rows). What
has no slower way to take its place must agree as well: padded batches, decoding token by token, and the logits. Otherwise the model is
refused, because its log-probs would be wrong without any sign of it.
"""

from collections.abc import Callable
from functools import partial

import torch

from policies.fast.attention import SHORT
from policies.fast.batches import pad_batch
from policies.fast.comparing import Rows, close, rows_to_compare
from policies.fast.layers import fuse, unfuse
from policies.fast.model import FastModel
from policies.fast.sampling import TransformersDecoding, last_states, replayed

FAILURES = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What modules of other forms raise."""
NO_OTHER_WAY = 5.0
"""A model is refused if it differs by more than this many times the limit. A wrong computation exceeds it also in bfloat16."""


class Unusable(Exception):
    """There is no way to run the model that gives transformers' numbers. The text says where they differ."""


@torch.no_grad()
def probe(model: FastModel, pad_id: int, start_layer: int, max_tokens: int | None) -> None:
    """Switch on the fast paths of a model that agree with transformers. Raises Unusable if there is none for something that is needed.

    start_layer: the layer at which passes should start, 0 for none. max_tokens: the longest row that the model can read.
    """
    model.rows = rows_to_compare(model.causal_lm.config.get_text_config(), SHORT, max_tokens)
    expected = [_alone(model, rows) for rows in model.rows]

    def agree(compute: Callable[[Rows], torch.Tensor], times: float = 1.0) -> bool:
        try:
            return all(close(compute(rows), states, times * model.limit) for rows, states in zip(model.rows, expected, strict=True))
        except FAILURES:
            return False

    _find_paths(model, agree, pad_id, start_layer)
    if not model.paths.unpadded and not agree(partial(_in_one_batch, model, pad_id), NO_OTHER_WAY):
        raise Unusable("the model computes other numbers for a row with padding than for the row alone")
    _check_logits(model)
    _check_decoding(model, pad_id, expected)
    model.largest_cache_bytes = 0  # the comparison's own caches do not count


def _find_paths(model: FastModel, agree: Callable[..., bool], pad_id: int, start_layer: int) -> None:
    paths, run = model.paths, partial(_in_one_batch, model, pad_id)
    fuse(model.decoder)
    paths.unpadded = paths.trimmed = True
    if not agree(partial(run, trimmed=True)):
        paths.trimmed = False
        paths.unpadded = agree(run)
    if not paths.unpadded:
        unfuse(model.decoder)
    paths.start_layer = start_layer if paths.unpadded else 0
    if paths.start_layer and not agree(partial(run, from_the_start_layer=True)):
        paths.start_layer = 0


def _alone(model: FastModel, rows: Rows) -> torch.Tensor:
    """The states of each row by itself, one after the other: [N, H]."""
    inputs = [torch.tensor([row], device=model.device) for row in rows]
    return torch.cat([model.decoder(input_ids=ids, use_cache=False).last_hidden_state[0] for ids in inputs])


def _in_one_batch(model: FastModel, pad_id: int, rows: Rows, trimmed: bool = False, from_the_start_layer: bool = False) -> torch.Tensor:
    """The states of all rows as the model computes them now, [N, H]. The first half of each row is its prompt."""
    halves = [len(row) // 2 for row in rows]
    prompts, responses = (
        [row[:half] for row, half in zip(rows, halves, strict=True)],
        [row[half:] for row, half in zip(rows, halves, strict=True)],
    )
    batch = pad_batch(prompts, responses, pad_id, model.device)
    only = torch.arange(len(batch.unpadded.index), device=model.device) if trimmed else None
    if not from_the_start_layer:
        return model.hidden_states(batch, only=only)
    with model.capture_start_states() as states:
        model.hidden_states(batch)
    return model.hidden_states(batch, states[0][0])


def _check_logits(model: FastModel) -> None:
    ids = torch.tensor([model.rows[0][-1]], device=model.device)
    expected = model.causal_lm(input_ids=ids, use_cache=False).logits
    found = model.logits(model.decoder(input_ids=ids, use_cache=False).last_hidden_state)
    if found.shape != expected.shape or not close(found, expected, NO_OTHER_WAY * model.limit):
        raise Unusable("the model's logits are not those of its output layer on its last hidden states")


def _check_decoding(model: FastModel, pad_id: int, expected: list[torch.Tensor]) -> None:
    for rows, states in zip(model.rows, expected, strict=True):
        try:
            found = replayed(partial(TransformersDecoding, model), rows, pad_id, model.device)
        except FAILURES as error:
            raise Unusable(f"the model cannot decode with a KV cache that rows leave ({type(error).__name__}: {error})") from error
        if not close(found, last_states(states, rows), NO_OTHER_WAY * model.limit):
            raise Unusable("the model computes other numbers token by token than in one pass")
