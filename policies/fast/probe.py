"""Compares a model's fast paths with transformers' forward pass when the model is loaded, and keeps those that agree.

The standard is transformers' own forward pass on each row alone, without padding, mask or cache (`rows_to_compare` makes the rows). What
has no slower way to take its place must agree as well: padded batches, decoding token by token, and the logits. Otherwise the model is
refused, because its log-probs would be wrong without any sign of it.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from policies.fast.attention import SHORT
from policies.fast.batches import Batch, pad_batch
from policies.fast.comparing import Rows, close, rows_to_compare
from policies.fast.layers import fuse, unfuse
from policies.fast.model import FastModel
from policies.fast.sampling import TransformersDecoding, last_states, replayed

Run = Callable[[Batch], torch.Tensor]
"""Computes the states of all tokens of a batch, [N, H]."""
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
    batches = [_in_halves(rows, pad_id, model.device) for rows in model.rows]
    expected = [_alone(model, rows) for rows in model.rows]

    def agree(compute: Run, times: float = 1.0) -> bool:
        try:
            return all(close(compute(batch), states, times * model.limit) for batch, states in zip(batches, expected, strict=True))
        except FAILURES:
            return False

    _find_paths(model, agree, start_layer if hasattr(model.decoder, "layers") else 0)
    if not model.paths.unpadded and not agree(model.hidden_states, NO_OTHER_WAY):
        raise Unusable("the model computes other numbers for a row with padding than for the row alone")
    _check_logits(model, expected[0])
    _check_decoding(model, pad_id, expected[-1])
    model.largest_cache_bytes = 0  # the comparison's own caches do not count


def _find_paths(model: FastModel, agree: Callable[[Run], bool], start_layer: int) -> None:
    """Try passes without padding, then all that can be added to them. What is tried from the start layer takes half the time."""
    paths = model.paths
    fuse(model.decoder)
    paths.unpadded, paths.start_layer = True, start_layer
    with model.capture_start_states() as captured:
        paths.unpadded = agree(model.hidden_states)
    if not paths.unpadded:
        unfuse(model.decoder)
        paths.start_layer = 0
        return
    for trimmed, start in [(True, start_layer), (True, 0), (False, start_layer)] if start_layer else [(True, 0)]:
        paths.trimmed, paths.start_layer = trimmed, start
        kept = iter([states[0] for states in captured])
        if agree(partial(_run_all, model, kept if start else None)):
            return
    paths.trimmed, paths.start_layer = False, 0


def _alone(model: FastModel, rows: Rows) -> torch.Tensor:
    """The states of each row by itself, one after the other: [N, H]."""
    inputs = [torch.tensor([row], device=model.device) for row in rows]
    return torch.cat([model.decoder(input_ids=ids, use_cache=False).last_hidden_state[0] for ids in inputs])


def _in_halves(rows: Rows, pad_id: int, device: torch.device) -> Batch:
    """A batch in which the first half of each row is its prompt, so there is padding on both sides."""
    return pad_batch([row[: len(row) // 2] for row in rows], [row[len(row) // 2 :] for row in rows], pad_id, device)


def _run_all(model: FastModel, kept: Iterator[torch.Tensor] | None, batch: Batch) -> torch.Tensor:
    """The states of all tokens, as of chosen ones, from the next start states if some are kept."""
    everything = torch.arange(len(batch.unpadded.index), device=model.device)
    return model.hidden_states(batch, None if kept is None else next(kept), only=everything)


def _check_logits(model: FastModel, states: torch.Tensor) -> None:
    """states: those of the first batch, which end with those of its last row."""
    row = model.rows[0][-1]
    expected = model.causal_lm(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0]
    found = model.logits(states[-len(row) :])
    if found.shape != expected.shape or not close(found, expected, NO_OTHER_WAY * model.limit):
        raise Unusable("the model's logits are not those of its output layer on its last hidden states")


def _check_decoding(model: FastModel, pad_id: int, states: torch.Tensor) -> None:
    """states: those of the last batch, which has the long row."""
    rows = model.rows[-1]
    try:
        found = replayed(partial(TransformersDecoding, model), rows, pad_id, model.device)
    except FAILURES as error:
        raise Unusable(f"the model cannot decode with a KV cache that rows leave ({type(error).__name__}: {error})") from error
    if not close(found, last_states(states, rows), NO_OTHER_WAY * model.limit):
        raise Unusable("the model computes other numbers token by token than in one pass")
