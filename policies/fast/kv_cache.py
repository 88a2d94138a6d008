"""A KV cache in buffers that are written in place. transformers' own cache copies all keys and values for every new token.

Letters: B rows, S tokens of a row so far, h heads, d head size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

MIN_GROWTH = 8
"""The smallest number of tokens by which a buffer grows."""


class KeysAndValues:
    """Keys and values of one layer, in two buffers [B, h, room, d].

    The buffers grow by a quarter at a time and hold at most `capacity` tokens. Rows that end early leave while they are still small.
    """

    def __init__(self, like: torch.Tensor, shapes: Sequence[tuple[int, ...]], capacity: int):
        """Make room for `shapes`: [B, h, tokens, d] of the keys and of the values. The buffers get the dtype and device of `like`."""
        self.capacity, self.length = capacity, 0
        self.buffers = [_with_room(like.new_empty((*shape[:2], 0, shape[3])), 0, shape[2], capacity) for shape in shapes]

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> list[torch.Tensor]:
        """Add keys and values [B, h, t, d] of new tokens. Returns all of them so far, [B, h, S, d] each."""
        start, self.length = self.length, self.length + keys.shape[2]
        self.buffers = [_with_room(buffer, start, self.length, self.capacity) for buffer in self.buffers]
        for buffer, states in zip(self.buffers, (keys, values), strict=True):
            buffer[:, :, start : self.length] = states
        return self.filled

    @property
    def filled(self) -> list[torch.Tensor]:
        """Keys and values so far, [B, h, S, d] each."""
        return [buffer[:, :, : self.length] for buffer in self.buffers]

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all other rows."""
        self.buffers = [buffer[rows] for buffer in self.buffers]

    @property
    def nbytes(self) -> int:
        """Bytes of both buffers."""
        return sum(buffer.nbytes for buffer in self.buffers)


def _with_room(buffer: torch.Tensor, filled: int, tokens: int, capacity: int) -> torch.Tensor:
    """Return the buffer [B, h, room, d], or a longer one with the same first `filled` tokens if it has no room for `tokens`."""
    if tokens <= buffer.shape[2]:
        return buffer
    room = min(max(tokens, capacity), tokens + max(MIN_GROWTH, tokens // 4))
    longer = buffer.new_empty((*buffer.shape[:2], room, buffer.shape[3]))
    longer[:, :, :filled] = buffer[:, :, :filled]
    return longer


class PreallocatedLayer(DynamicLayer):
    """A layer of transformers' KV cache that stores its tensors in `KeysAndValues`."""

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity = capacity

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states of new tokens. Returns all keys and all values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._store = KeysAndValues(key_states, [tuple(key_states.shape), tuple(value_states.shape)], self.capacity)
        self.keys, self.values = self._store.append(key_states, value_states)
        return self.keys, self.values

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return self._store.nbytes

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Drop all rows but these."""
        self._store.keep(indices)
        self.keys, self.values = self._store.filled


def preallocated_cache(config: Any, capacity: int) -> DynamicCache:
    """Return transformers' cache for a model's `config`, with room for `capacity` tokens. Layers of other kinds stay transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [PreallocatedLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def cache_bytes(cache: DynamicCache) -> int:
    """Return the bytes of the keys and values of all layers."""
    return sum(layer.nbytes if isinstance(layer, PreallocatedLayer) else _bytes_of(layer) for layer in cache.layers)


def _bytes_of(layer: Any) -> int:
    return sum(tensor.nbytes for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None)) if tensor is not None)
