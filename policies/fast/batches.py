"""Padded batches of token ids, and the same tokens without padding.

Models are asked in `Batch`es: a rectangle of token ids with masks. Fast code works on `Unpadded` tokens instead, which are laid end to
end so that no time is spent on padding. Only attention needs rows again, and `Unpadded` converts between the two layouts.

Letters: B batch rows, P prompt tokens, R response tokens, T = P + R, N real tokens of a batch, M real response tokens, L longest row,
h attention heads, d head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch


@dataclass
class Batch:
    """Prompts padded on the left to P tokens, and responses padded on the right to R, so every response starts in the same column."""

    input_ids: torch.Tensor  # [B, T] long
    attention_mask: torch.Tensor  # [B, T] long; 1 for a real token
    position_ids: torch.Tensor  # [B, T] long; counts real tokens only
    response_mask: torch.Tensor  # [B, R] bool; True for a real token

    @classmethod
    def from_sequences(cls, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> "Batch":
        """Make a batch of whole sequences, [B, T] each, padded on either side. It has no response columns."""
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
        return cls(input_ids, attention_mask, positions, torch.zeros_like(attention_mask, dtype=torch.bool))

    @property
    def prompt_length(self) -> int:
        """P, the number of prompt columns."""
        return self.input_ids.shape[1] - self.response_mask.shape[1]

    @property
    def response_ids(self) -> torch.Tensor:
        """[M]: the response tokens, row after row."""
        return self.input_ids[:, self.prompt_length :][self.response_mask]

    def rows(self, index: torch.Tensor) -> "Batch":
        """Return some of the rows [n], without the columns that are padding in all of them."""
        used = self.attention_mask[index].any(0).nonzero()[:, 0]
        start, end = int(used[0]), max(int(used[-1]), self.prompt_length) + 1
        ids, mask, positions = (tensor[index, start:end] for tensor in (self.input_ids, self.attention_mask, self.position_ids))
        return Batch(ids, mask, positions, self.response_mask[index, : end - self.prompt_length])

    @cached_property
    def unpadded(self) -> "Unpadded":
        """All real tokens, without padding."""
        return Unpadded.from_batch(self, self.attention_mask)

    @cached_property
    def unpadded_but_last(self) -> "Unpadded":
        """All real tokens but the last one of each row: no token is predicted from it, and no other token attends to it."""
        following = torch.nn.functional.pad(self.attention_mask[:, 1:], (0, 1))
        return Unpadded.from_batch(self, self.attention_mask * following)


@dataclass
class Unpadded:
    """N tokens of a batch laid end to end, row after row."""

    index: torch.Tensor  # [N] long; place of each token in the flattened [B, T]
    kept: torch.Tensor  # [N] long; place of each token among all real tokens of the batch
    input_ids: torch.Tensor  # [N] long
    position_ids: torch.Tensor  # [N] long
    slots: torch.Tensor  # [N] long; place of each token in the flattened [B, L], padded on the right, where attention is computed
    shape: tuple[int, int]  # (B, L)
    last: torch.Tensor  # [B] long; the last token of each row
    predictors: torch.Tensor  # [M] long; the tokens whose hidden states predict the response tokens, row after row
    _head_orders: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = field(default_factory=dict, repr=False)
    """Results of `_head_order`."""

    @classmethod
    def from_batch(cls, batch: Batch, mask: torch.Tensor) -> "Unpadded":
        """Take the tokens where `mask` [B, T] is 1. In each row these must be the first real tokens, or all of them."""
        index = mask.flatten().nonzero()[:, 0]
        position_ids = batch.position_ids.flatten()[index]
        lengths = mask.sum(1)
        B, L = len(lengths), int(lengths.max())
        rows = torch.repeat_interleave(torch.arange(B, device=index.device), lengths)
        predicts = torch.nn.functional.pad(batch.response_mask, (batch.prompt_length - 1, 1)).flatten()
        return cls(
            index=index,
            kept=mask.flatten()[batch.attention_mask.flatten().bool()].nonzero()[:, 0],
            input_ids=batch.input_ids.flatten()[index],
            position_ids=position_ids,
            slots=rows * L + position_ids,
            shape=(B, L),
            last=lengths.cumsum(0) - 1,
            predictors=predicts[index].nonzero()[:, 0],
        )

    def pad(self, states: torch.Tensor) -> torch.Tensor:
        """[N, ...] -> [B, L, ...], with 0 for padding."""
        B, L = self.shape
        if len(self.slots) != B * L:
            states = states.new_zeros((B * L, *states.shape[1:])).index_copy_(0, self.slots, states)
        return states.unflatten(0, (B, L))

    def unpad(self, grid: torch.Tensor) -> torch.Tensor:
        """[B, L, ...] -> [N, ...]. The inverse of `pad`."""
        flat = grid.flatten(0, 1)
        return flat if len(self.slots) == len(flat) else flat.index_select(0, self.slots)

    def pad_heads(self, heads: torch.Tensor, zeros: bool = True) -> torch.Tensor:
        """[N, h, d] -> [h, B, L, d]. Padding is 0, or with `zeros=False` a copy of any token."""
        h, d = heads.shape[1:]
        rows, (with_zeros, _, without) = heads.reshape(-1, d), self._head_order(h)
        rows, order = (torch.nn.functional.pad(rows, (0, 0, 0, 1)), with_zeros) if zeros else (rows, without)
        return rows.index_select(0, order).view(h, *self.shape, d)

    def unpad_heads(self, grid: torch.Tensor) -> torch.Tensor:
        """[h, B, L, d], or a tensor with the same numbers in another shape, -> [N, h d]. The inverse of `pad_heads`."""
        rows, d = grid.reshape(-1, grid.shape[-1]), grid.shape[-1]
        h = len(rows) // (self.shape[0] * self.shape[1])
        return rows.index_select(0, self._head_order(h)[1]).view(-1, h * d)

    def _head_order(self, h: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For each row of d numbers, the row that it is copied from: into the grid, out of it, and into it without a final row of zeros.

        Copying rows is several times faster than indexing an inner dimension.
        """
        if h not in self._head_orders:
            heads, (B, L) = torch.arange(h, device=self.slots.device), self.shape
            into_grid = (self.slots[:, None] + heads * B * L).flatten()
            from_heads = torch.full((h * B * L,), len(into_grid), device=self.slots.device)  # the row of zeros
            from_heads[into_grid] = torch.arange(len(into_grid), device=self.slots.device)
            self._head_orders[h] = from_heads, into_grid, from_heads.clamp(max=len(into_grid) - 1)
        return self._head_orders[h]


def pad_batch(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_id: int, device: torch.device | str = "cpu"
) -> Batch:
    """Make one Batch of B lists of token ids. Padded places may hold any token, because the masks say which tokens are real."""
    P, R = max(map(len, prompts)), max(1, *map(len, responses))
    ids, mask = [], []
    for prompt, response in zip(prompts, responses, strict=True):
        left, right = P - len(prompt), R - len(response)
        ids.append([pad_id] * left + [*prompt, *response] + [pad_id] * right)
        mask.append([0] * left + [1] * (len(prompt) + len(response)) + [0] * right)
    attention_mask = torch.tensor(mask, device=device)
    return Batch(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0),
        response_mask=attention_mask[:, P:].bool(),
    )
