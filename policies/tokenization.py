"""Prompts and completions as token ids. The only place that knows chat templates, end tokens and padding.

Letters: B batch, P prompt tokens, R response tokens, T = P + R, N real tokens of a batch, M real response tokens.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch
from jinja2 import TemplateError

Prompt = str | list[dict[str, str]]
"""Plain text, or messages of `role` and `content` (TRL's conversational form)."""


@dataclass
class Batch:
    """Prompts padded left to P, responses padded right to R, so that every response starts at the same column."""

    input_ids: torch.Tensor  # [B, T] long
    attention_mask: torch.Tensor  # [B, T] long; 1 keeps
    position_ids: torch.Tensor  # [B, T] long; counts real tokens only
    response_mask: torch.Tensor  # [B, R] bool; True keeps

    @classmethod
    def of(cls, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> "Batch":
        """Whole sequences, however they are padded, [B, T] each; what is prompt and what response is not known."""
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
        return cls(input_ids, attention_mask, positions, torch.zeros_like(attention_mask, dtype=torch.bool))

    @property
    def prompt_length(self) -> int:
        return self.input_ids.shape[1] - self.response_mask.shape[1]

    def rows(self, index: torch.Tensor) -> "Batch":
        """Some of the rows [n], without columns that are padding in all of them."""
        used = self.attention_mask[index].any(0).nonzero()[:, 0]
        start, end = int(used[0]), max(int(used[-1]), self.prompt_length) + 1
        ids, mask, positions = (tensor[index, start:end] for tensor in (self.input_ids, self.attention_mask, self.position_ids))
        return Batch(ids, mask, positions, self.response_mask[index, : end - self.prompt_length])

    @cached_property
    def packing(self) -> "Packing":
        """The same tokens without padding."""
        return Packing.of(self, self.attention_mask)

    @cached_property
    def predicting(self) -> "Packing":
        """Without each row's last token either: nothing is predicted from it, and no other token looks at it."""
        following = torch.nn.functional.pad(self.attention_mask[:, 1:], (0, 1))
        return Packing.of(self, self.attention_mask * following)


@dataclass
class Packing:
    """Some tokens of a batch laid end to end, row after row, so that no work is done on padding. N of them here."""

    index: torch.Tensor  # [N] long; each token's place in the flattened [B, T]
    kept: torch.Tensor  # [N] long; each token's place among all real tokens
    input_ids: torch.Tensor  # [N] long
    position_ids: torch.Tensor  # [N] long
    slots: torch.Tensor  # [N] long; each token's place in [B, longest], padded right, where attention is computed
    shape: tuple[int, int]  # (B, longest)
    last: torch.Tensor  # [B] long; each row's last token
    predictors: torch.Tensor  # [M] long; the tokens whose states predict the batch's response tokens, row after row
    _orders: dict[int, tuple[torch.Tensor, ...]] = field(default_factory=dict, repr=False)  # `_order_of_heads` so far

    def spread(self, states: torch.Tensor) -> torch.Tensor:
        """[N, ...] -> [B, longest, ...], 0 where padded."""
        B, longest = self.shape
        if len(self.slots) != B * longest:
            states = states.new_zeros((B * longest, *states.shape[1:])).index_copy_(0, self.slots, states)
        return states.unflatten(0, (B, longest))

    def collect(self, grid: torch.Tensor) -> torch.Tensor:
        """[B, longest, ...] -> [N, ...]: the inverse of `spread`."""
        flat = grid.flatten(0, 1)
        return flat if len(self.slots) == len(flat) else flat.index_select(0, self.slots)

    def spread_heads(self, heads: torch.Tensor, zeros: bool = True) -> torch.Tensor:
        """[N, h, d] -> [h, B, longest, d], where padded 0, or without `zeros` what some token has."""
        h, d = heads.shape[1:]
        rows, (with_zeros, _, without) = heads.reshape(-1, d), self._order_of_heads(h)
        rows, order = (torch.nn.functional.pad(rows, (0, 0, 0, 1)), with_zeros) if zeros else (rows, without)
        return rows.index_select(0, order).view(h, *self.shape, d)

    def collect_heads(self, grid: torch.Tensor) -> torch.Tensor:
        """[h, B, longest, d], or the same numbers in another shape, -> [N, h d]: the inverse of `spread_heads`."""
        rows, d = grid.reshape(-1, grid.shape[-1]), grid.shape[-1]
        h = len(rows) // (self.shape[0] * self.shape[1])
        return rows.index_select(0, self._order_of_heads(h)[1]).view(-1, h * d)

    def _order_of_heads(self, h: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where each row of d numbers comes from, into the grid, out of it, and into it without a row of zeros at the end.

        Copying rows is several times faster than indexing an inner dimension.
        """
        if h not in self._orders:
            heads, (B, longest) = torch.arange(h, device=self.slots.device), self.shape
            into_grid = (self.slots[:, None] + heads * B * longest).flatten()
            from_heads = torch.full((h * B * longest,), len(into_grid), device=self.slots.device)  # a row of zeros
            from_heads[into_grid] = torch.arange(len(into_grid), device=self.slots.device)
            self._orders[h] = from_heads, into_grid, from_heads.clamp(max=len(into_grid) - 1)
        return self._orders[h]

    @classmethod
    def of(cls, batch: Batch, mask: torch.Tensor) -> "Packing":
        """The tokens where `mask` [B, T] is 1: all real ones of a row, or the first so many."""
        index = mask.flatten().nonzero()[:, 0]
        position_ids = batch.position_ids.flatten()[index]
        lengths = mask.sum(1)
        B, longest = len(lengths), int(lengths.max())
        rows = torch.repeat_interleave(torch.arange(B, device=index.device), lengths)
        predicts = torch.nn.functional.pad(batch.response_mask, (batch.prompt_length - 1, 1)).flatten()
        return cls(
            index=index,
            kept=mask.flatten()[batch.attention_mask.flatten().bool()].nonzero()[:, 0],
            input_ids=batch.input_ids.flatten()[index],
            position_ids=position_ids,
            slots=rows * longest + position_ids,
            shape=(B, longest),
            last=lengths.cumsum(0) - 1,
            predictors=predicts[index].nonzero()[:, 0],
        )


class DialogueRefused(Exception):
    """The chat template cannot write a dialogue; the text is its reason."""


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of a prompt, ready for the model to answer.

    Messages go through `encode_messages`. Plain text is encoded as the tokenizer does it, with the special tokens that stand in
    it: some data sets hold prompts that a chat template has written.
    """
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    return encode_messages(tokenizer, prompt, add_generation_prompt=True)


def encode_messages(tokenizer: Any, messages: Sequence[dict[str, str]], add_generation_prompt: bool = False) -> list[int]:
    """Token ids of a dialogue by the tokenizer's chat template; a base model without one gets the form of HH
    ("\\n\\nHuman: ...\\n\\nAssistant:"). Only the template writes special tokens: those in a message are plain text.

    Raises DialogueRefused: many templates want turns that alternate, some no system turn."""
    if tokenizer.chat_template:
        # Only where it is needed: it also takes ordinary added tokens of the template, such as <think>, for plain text.
        written = any(_special(tokenizer).pattern.search(m["content"]) for m in messages)
        try:
            return tokenizer.apply_chat_template(
                messages, add_generation_prompt=add_generation_prompt, return_dict=True, sanitize_control_tokens=written
            )["input_ids"]
        except (TemplateError, ValueError) as error:  # transformers raises ValueError where it cannot make plain text of a token
            raise DialogueRefused(str(error)) from None
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    turns = [f"\n\n{names.get(m['role'], m['role'])}: {m['content']}" for m in messages]
    end = "\n\nAssistant:" if add_generation_prompt else ""
    return tokenizer("".join(turns) + end, split_special_tokens=True)["input_ids"]


def encode_completion(tokenizer: Any, completion: str, finished: bool = True) -> list[int]:
    """Token ids of a completion, closed by the end token where it was finished. A special token in the text is plain text."""
    ids = tokenizer(completion, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids + [tokenizer.eos_token_id] if finished else ids


def decode_completion(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of sampled ids without the end token that closes them. Other special tokens are shown, since they were sampled;
    bytes that are no text become U+FFFD."""
    inside = list(ids[:-1] if _is_finished(tokenizer, ids) else ids)
    return tokenizer.decode(inside, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def as_read(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """Sampled ids as they are judged: the same, unless the text does not show them (a special token inside, or an id for which
    the tokenizer has no text). Then those of the text that labelers see."""
    finished = _is_finished(tokenizer, ids)
    special, known = _special(tokenizer).ids, len(tokenizer)
    if all(id not in special and id < known for id in (ids[:-1] if finished else ids)):
        return list(ids)
    return encode_completion(tokenizer, decode_completion(tokenizer, ids), finished)


def _is_finished(tokenizer: Any, ids: Sequence[int]) -> bool:
    return bool(ids) and ids[-1] == tokenizer.eos_token_id


@dataclass(frozen=True)
class _Special:
    """A tokenizer's special tokens: how they are written, and their ids."""

    pattern: re.Pattern[str]
    ids: frozenset[int]


@lru_cache(maxsize=8)
def _special(tokenizer: Any) -> _Special:
    """Kept, since Llama 3 has 256 of them and every prompt asks."""
    found = {id: token.content for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return _Special(re.compile("|".join(map(re.escape, found.values())) or "(?!)"), frozenset(found))


def pad_batch(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_id: int, device: torch.device | str = "cpu"
) -> Batch:
    """B token-id lists as one Batch. What stands in padded places is never looked at: masks say what is real."""
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
