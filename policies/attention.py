"""Attention for packed batches: linear layers see no padding, only the small attention product is padded.

Registered with transformers under `PACKED`, so that any decoder that goes through its attention interface can run packed.
Must never know of adapters or roles. Letters: N tokens in all, B rows, L longest row, h heads, d head size.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import DynamicCache, DynamicLayer

from policies.tokenization import Packing

PACKED = "loop_packed"


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
    B, L = packing.shape
    mask = None
    if sliding_window is not None and sliding_window < L:
        age = torch.arange(L, device=query.device)[:, None] - torch.arange(L, device=query.device)
        mask = (age >= 0) & (age < sliding_window)
    grids = [_to_grid(states[0].transpose(0, 1), packing) for states in (query, key, value)]
    out = scaled_dot_product_attention(
        *grids, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )
    out = out.transpose(1, 2).reshape(B * L, *out.shape[1::2])
    return (out if len(packing.slots) == B * L else out[packing.slots])[None], None


def _to_grid(states: torch.Tensor, packing: Packing) -> torch.Tensor:
    """[N, h, d] -> [B, h, L, d]. Rows are padded right, where causal attention never looks."""
    B, L = packing.shape
    if len(packing.slots) != B * L:
        states = states.new_zeros((B * L, *states.shape[1:])).index_copy(0, packing.slots, states)
    return states.reshape(B, L, *states.shape[1:]).transpose(1, 2)


AttentionInterface.register(PACKED, packed_attention)


class Preallocated(DynamicLayer):
    """A layer of a KV cache that writes into a buffer, instead of copying the whole cache for every token."""

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity = capacity

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = [s.new_empty((*s.shape[:2], self.capacity, s.shape[3])) for s in (key_states, value_states)]
        start = self.get_seq_length()
        stop = start + key_states.shape[2]
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


def preallocated_cache(config: Any, capacity: int) -> DynamicCache:
    """transformers' cache for this model, with room for `capacity` tokens; its special layers stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [Preallocated(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
