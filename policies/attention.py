"""Attention for packed batches: linear layers see no padding, only the small attention product is padded.

Registered with transformers under `PACKED`, so that any decoder that goes through its attention interface can run packed.
Must never know of adapters or roles. Letters: N tokens in all, B rows, L longest row, h heads, d head size.
"""

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


class Preallocated(DynamicLayer):
    """A layer of a KV cache that writes into a buffer, instead of copying the whole cache for every token.

    The buffer grows by a quarter, at most to `capacity` tokens, so that rows that end early leave before it is large.
    """

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity = capacity

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = [s.new_empty((*s.shape[:2], 0, s.shape[3])) for s in (key_states, value_states)]
        start = self.get_seq_length()
        stop = start + key_states.shape[2]
        self._buffers = [extended(buffer, start, stop, self.capacity) for buffer in self._buffers]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:stop] = states
        self.keys, self.values = (buffer[:, :, :stop] for buffer in self._buffers)
        return self.keys, self.values

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        length = self.get_seq_length()
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)


def extended(buffer: torch.Tensor, filled: int, stop: int, capacity: int) -> torch.Tensor:
    """A buffer [..., room, d] with room for `stop` tokens: the same, or a longer one whose first `filled` tokens are the same."""
    if stop <= buffer.shape[-2]:
        return buffer
    room = min(max(stop, capacity), stop + max(MIN_GROWTH, stop // 4))
    longer = buffer.new_empty((*buffer.shape[:-2], room, buffer.shape[-1]))
    longer[..., :filled, :] = buffer[..., :filled, :]
    return longer


def preallocated_cache(config: Any, capacity: int) -> DynamicCache:
    """transformers' cache for this model, with room for `capacity` tokens; its special layers stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [Preallocated(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
