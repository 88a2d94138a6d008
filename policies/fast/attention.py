"""Attention for packed batches: linear layers see no padding, only the small attention product is padded.

Registered with transformers under `PACKED`, so that any decoder that goes through its attention interface can run packed.
Must never know of adapters or roles. Letters: N tokens in all, B rows, L longest row, h heads, d head size.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import DynamicCache, DynamicLayer

from policies.tokenization import Packing

PACKED = "loop_packed"
SHORT = 128
"""Longest row for which three plain products beat the fused kernel on a CPU."""
MIN_GROWTH = 8
"""Tokens by which a KV cache grows at least."""


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packing: Packing,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row. query [1, h, N, d] -> [1, N, h, d]. Raises ValueError for what it cannot do."""
    if softcap is not None:
        raise ValueError("packed attention has no soft cap")
    grids = (packing.spread(states[0].transpose(0, 1)).transpose(1, 2) for states in (query, key, value))
    return attend(*grids, packing, scaling, sliding_window)[None], None


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    scaling: float | None = None,
    sliding_window: int | None = None,
) -> torch.Tensor:
    """[B, h, L, d] each -> [N, h, d]. Rows are padded right, where causal attention never looks."""
    L, grouped = packing.shape[1], query.shape[1] != key.shape[1]
    windowed = sliding_window is not None and sliding_window < L
    if is_short(query, packing) and not grouped:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        scores = (query @ key.transpose(-1, -2)).mul_(scale).add_(causal_bias(L, sliding_window, query.dtype, query.device))
        out = scores.softmax(-1) @ value
    else:
        mask = causal_bias(L, sliding_window, query.dtype, query.device) if windowed else None
        out = scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped)
    return packing.collect(out.transpose(1, 2))


def is_short(states: torch.Tensor, packing: Packing) -> bool:
    """Whether plain products beat the fused kernel."""
    return packing.shape[1] <= SHORT and states.device.type == "cpu" and states.dtype.itemsize >= 4


@lru_cache(maxsize=64)
def causal_bias(L: int, sliding_window: int | None, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[L, L]: 0 where a token looks, -inf where it does not."""
    age = torch.arange(L, device=device)[:, None] - torch.arange(L, device=device)
    seen = (age >= 0) & (age < (sliding_window or L))
    return torch.zeros(L, L, dtype=dtype, device=device).masked_fill_(~seen, float("-inf"))


AttentionInterface.register(PACKED, packed_attention)


class KeysAndValues:
    """Keys and values of a layer so far, in two buffers [B, h, room, d] that are written into, instead of copied for every token.

    They grow by a quarter, at most to `capacity` tokens, so that rows that end early leave before they are large.
    """

    def __init__(self, like: torch.Tensor, shapes: Sequence[tuple[int, ...]], capacity: int):
        """Room for `shapes`, [B, h, tokens, d] of keys and of values; `like`: of the same dtype and device."""
        self.capacity, self.length = capacity, 0
        self.buffers = [_with_room(like.new_empty((*shape[:2], 0, shape[3])), 0, shape[2], capacity) for shape in shapes]

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> list[torch.Tensor]:
        """[B, h, t, d] each -> both so far, [B, h, S, d] each."""
        start, self.length = self.length, self.length + keys.shape[2]
        self.buffers = [_with_room(buffer, start, self.length, self.capacity) for buffer in self.buffers]
        for buffer, states in zip(self.buffers, (keys, values), strict=True):
            buffer[:, :, start : self.length] = states
        return self.filled

    @property
    def filled(self) -> list[torch.Tensor]:
        return [buffer[:, :, : self.length] for buffer in self.buffers]

    def keep(self, rows: torch.Tensor) -> None:
        self.buffers = [buffer[rows] for buffer in self.buffers]

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers)


def _with_room(buffer: torch.Tensor, filled: int, tokens: int, capacity: int) -> torch.Tensor:
    """The buffer [B, h, room, d], or where it is too short for `tokens` a longer one with the same first `filled` tokens."""
    if tokens <= buffer.shape[2]:
        return buffer
    room = min(max(tokens, capacity), tokens + max(MIN_GROWTH, tokens // 4))
    longer = buffer.new_empty((*buffer.shape[:2], room, buffer.shape[3]))
    longer[:, :, :filled] = buffer[:, :, :filled]
    return longer


class Preallocated(DynamicLayer):
    """A layer of transformers' KV cache that keeps `KeysAndValues`."""

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity = capacity

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._store = KeysAndValues(key_states, [tuple(key_states.shape), tuple(value_states.shape)], self.capacity)
        self.keys, self.values = self._store.append(key_states, value_states)
        return self.keys, self.values

    @property
    def nbytes(self) -> int:
        return self._store.nbytes

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._store.keep(indices)
        self.keys, self.values = self._store.filled


def preallocated_cache(config: Any, capacity: int) -> DynamicCache:
    """transformers' cache for this model, with room for `capacity` tokens; its special layers stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [Preallocated(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
