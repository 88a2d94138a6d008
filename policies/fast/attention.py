"""Attention for unpadded tokens: linear layers never see padding, and only the small attention product is padded.

The function is registered with transformers under the name `UNPADDED`, so every decoder that uses transformers' attention interface can
run without padding. Letters: N tokens in all, B rows, L longest row, h heads, d head size.
"""

from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from policies.fast.batches import Unpadded

UNPADDED = "loop_unpadded"
"""The name of `unpadded_attention` in transformers' attention interface."""
SHORT = 128
"""The longest row for which plain matrix products are faster than the fused kernel on a CPU."""


def unpadded_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    unpadded: Unpadded,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute causal attention within each row. query [1, h, N, d] -> [1, N, h, d]. Raises ValueError for a soft cap."""
    if kwargs.get("softcap") is not None:
        raise ValueError("attention without padding does not support a soft cap")
    query, key, value = (unpadded.pad(states[0].transpose(0, 1)).transpose(1, 2) for states in (query, key, value))
    return attend(query, key, value, unpadded, scaling, sliding_window)[None], None


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    unpadded: Unpadded,
    scaling: float | None = None,
    sliding_window: int | None = None,
) -> torch.Tensor:
    """[B, h, L, d] each -> [N, h, d]. Rows are padded on the right, where causal attention never looks."""
    L, grouped = unpadded.shape[1], query.shape[1] != key.shape[1]
    windowed = sliding_window is not None and sliding_window < L
    if is_short(query, unpadded) and not grouped and query.dtype.itemsize >= 4:  # below, softmax would lose what the kernel keeps
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        scores = (query @ key.transpose(-1, -2)).mul_(scale).add_(causal_bias(L, sliding_window, query.dtype, query.device))
        out = scores.softmax(-1) @ value
    else:
        mask = causal_bias(L, sliding_window, query.dtype, query.device) if windowed else None
        out = scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped)
    return unpadded.unpad(out.transpose(1, 2))


def is_short(states: torch.Tensor, unpadded: Unpadded) -> bool:
    """Tell whether plain matrix products are faster than the fused kernel."""
    return unpadded.shape[1] <= SHORT and states.device.type == "cpu"


@lru_cache(maxsize=64)
def causal_bias(L: int, sliding_window: int | None, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[L, L]: 0 where a token attends to another one, -inf where it does not."""
    age = torch.arange(L, device=device)[:, None] - torch.arange(L, device=device)
    seen = (age >= 0) & (age < (sliding_window or L))
    return torch.zeros(L, L, dtype=dtype, device=device).masked_fill_(~seen, float("-inf"))


AttentionInterface.register(UNPADDED, unpadded_attention)
