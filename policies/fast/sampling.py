"""Passes through a decoder while it samples: all prompts at once, then one token a row. Rows leave when they have ended.

    with decoder(backbone, "policy") as start:
        passes = start(batch, capacity)     # `batch`: prompts without responses
        hidden = passes.prompts()           # [B, H]: the states that predict the first tokens
        hidden = passes.tokens(token_ids)   # the next ones
        passes.keep(rows)

Two kinds with one result. `MergedPasses` knows decoders of Llama's form: the adapter is merged into copies of the weights, projections that
share an input are one product, prompts are not padded. `TransformersPasses` runs any decoder, quantized ones too. Must never know of
tokens drawn, seeds or ends. Letters: B rows, N tokens of all prompts, S tokens of a row so far, H hidden, h heads, d head size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention, silu

from policies.backbone import Backbone
from policies.fast.attention import KeysAndValues, Preallocated, attend, preallocated_cache
from policies.fast.layers import frozen_linear, known_layer, rotate
from policies.tokenization import Batch, pad_batch

BLOCKS = (256, 64)
"""Layers run on blocks of so many tokens, and a rest: little memory, and few shapes, for each of which oneDNN compiles a kernel (1 ms)."""
ROWS = 16
"""The rest is filled up to a multiple of this for a packed product; a batch should shrink in this measure."""
FIXED_TURNS = ("default", "linear", "yarn", "llama3")
"""Kinds of rotary positions that do not change with the length of the row."""
PACKED_SIZES = (2**15, 2**24)
"""Numbers in a weight for which oneDNN's packed layout pays: below, a plain product is as fast; above, the copy is too large."""


class Passes(Protocol):
    """One batch on its way."""

    lower: torch.Tensor | None
    """What entered the backbone's `first_layer`, if not 0, in the last pass: [N, H] of the prompts, row after row, then [B, H]."""

    def prompts(self) -> torch.Tensor: ...
    def tokens(self, token_ids: torch.Tensor) -> torch.Tensor: ...
    def logits(self, hidden: torch.Tensor) -> torch.Tensor: ...
    def keep(self, rows: torch.Tensor) -> None: ...
    @property
    def cache_bytes(self) -> int: ...


@contextmanager
def decoder(backbone: Backbone, adapter: str | None) -> Iterator[Callable[[Batch, int], Passes]]:
    """How to start a batch under an adapter: called with the prompts and the tokens that a row may have in all."""
    with backbone.role(adapter):
        merged = MergedDecoder.of(backbone)
        if merged is not None:
            yield lambda batch, capacity: MergedPasses(merged, batch, capacity)
            return
    with backbone.merged(adapter):
        yield lambda batch, capacity: TransformersPasses(backbone, batch, capacity)


class TransformersPasses:
    """Through transformers' own forward, prompts padded left."""

    def __init__(self, backbone: Backbone, batch: Batch, capacity: int):
        P = batch.prompt_length
        self.input_ids, self.positions = batch.input_ids[:, :P], batch.position_ids[:, :P]
        self.mask, self.backbone = batch.attention_mask[:, :P].bool(), backbone
        self.cache = preallocated_cache(backbone.causal_lm.config, capacity)
        self.plain = all(isinstance(layer, Preallocated) for layer in self.cache.layers)  # no sliding windows: the mask is known
        self.lower: torch.Tensor | None = None
        self.logits = backbone.logits

    def prompts(self) -> torch.Tensor:
        hidden = self._run(self.mask)
        self.lower = None if self.lower is None else self.lower[self.mask]
        return hidden

    def tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        self.input_ids, self.positions = token_ids[:, None], self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        hidden = self._run(self.mask[:, None, None] if self.plain else self.mask)
        self.lower = None if self.lower is None else self.lower[:, 0]
        return hidden

    def keep(self, rows: torch.Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]

    @property
    def cache_bytes(self) -> int:
        return sum(layer.nbytes for layer in self.cache.layers) if self.plain else 0

    def _run(self, mask: torch.Tensor) -> torch.Tensor:
        with self.backbone.capture() as lower:
            states = self.backbone.decoder(
                input_ids=self.input_ids, attention_mask=mask, position_ids=self.positions, past_key_values=self.cache, use_cache=True
            )
        self.lower = lower[0] if lower else None
        return states.last_hidden_state[:, -1]


class MergedPasses:
    """Through `MergedDecoder`, prompts packed; in the cache they stand padded right, and what is sampled follows in the same column."""

    def __init__(self, merged: "MergedDecoder", batch: Batch, capacity: int):
        self.merged, self.packing, self.logits = merged, batch.packing, merged.logits
        B, L = self.packing.shape
        # All caches before the first pass: made in between, they would leave holes in memory as large as its temporaries.
        self.caches = [KeysAndValues(merged.embed.weight, [(B, layer.heads[1], L + 1, layer.d)] * 2, capacity) for layer in merged.layers]
        self.cos, self.sin = merged.turns(capacity)
        self.positions = lengths = batch.attention_mask.sum(1)
        places = torch.arange(capacity, device=lengths.device)
        seen = (places < lengths[:, None]) | (places >= self.packing.shape[1])
        self.seen = None if seen.all() else seen[:, None, None]
        self.lower: torch.Tensor | None = None

    def prompts(self) -> torch.Tensor:
        def attention(i: int, layer: MergedLayer, heads: torch.Tensor) -> torch.Tensor:
            query, key, value = self.packing.spread(heads).transpose(1, 2).split(layer.heads, 1)
            self.caches[i].append(key, value)
            return attend(query, key, value, self.packing, layer.scaling)

        return self._run(self.packing.input_ids, self.packing.position_ids, attention, self.packing.last)

    def tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        def attention(i: int, layer: MergedLayer, heads: torch.Tensor) -> torch.Tensor:
            query, key, value = heads[:, :, None].split(layer.heads, 1)
            keys, values = self.caches[i].append(key, value)
            seen = None if self.seen is None else self.seen[..., : keys.shape[2]]
            grouped = layer.heads[0] != layer.heads[1]
            return scaled_dot_product_attention(query, keys, values, attn_mask=seen, scale=layer.scaling, enable_gqa=grouped)

        positions, self.positions = self.positions, self.positions + 1
        return self._run(token_ids, positions, attention)

    def keep(self, rows: torch.Tensor) -> None:
        for cache in self.caches:
            cache.keep(rows)
        self.positions, self.seen = self.positions[rows], None if self.seen is None else self.seen[rows]

    @property
    def cache_bytes(self) -> int:
        return sum(cache.nbytes for cache in self.caches)

    def _run(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        attention: Callable[[int, "MergedLayer", torch.Tensor], torch.Tensor],
        only: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Every layer on [N] tokens, the last one's second half for those in `only`. `attention` finds [N, h, d] for [N, heads, d]."""
        states, cos, sin = self.merged.embed(token_ids), self.cos[positions], self.sin[positions]
        for i, layer in enumerate(self.merged.layers):
            if i and i == self.merged.first_layer:
                self.lower = states
            attended = attention(i, layer, in_blocks(layer.project, states, cos, sin)).flatten(1)
            if only is not None and i == len(self.merged.layers) - 1:
                states, attended = states[only], attended[only]
            states = in_blocks(layer.finish, states, attended)
        return self.merged.norm(states)


class MergedDecoder:
    """A decoder of Llama's form, the active adapter merged into copies of its weights. Under `no_grad` only."""

    def __init__(self, backbone: Backbone):
        model: Any = backbone.decoder
        self.embed, self.norm, self.rotary, self.first_layer = model.embed_tokens, model.norm, model.rotary_emb, backbone.first_layer
        scratch = torch.empty(PACKED_SIZES[1])  # only what is written becomes resident
        self.layers = [MergedLayer(layer, scratch) for layer in model.layers]
        head = None if backbone.frozen_head is None else Product([backbone.causal_lm.get_output_embeddings()], scratch)
        self.logits = head if head is not None and head.packed else backbone.logits

    @classmethod
    def of(cls, backbone: Backbone) -> "MergedDecoder | None":
        """None where a part is not known, or the numbers are not the backbone's own."""
        layers, rotary = getattr(backbone.decoder, "layers", []), getattr(backbone.decoder, "rotary_emb", None)
        known = backbone.packs and getattr(rotary, "rope_type", None) in FIXED_TURNS and all(known_layer(layer) for layer in layers)
        if backbone.merges is False or not known:
            return None
        if backbone.merges is None:
            backbone.merges = cls._agrees(backbone)
        return cls(backbone) if backbone.merges else None

    def turns(self, capacity: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin of positions 0 to capacity - 1, [capacity, 1, d / 2] each."""
        weight = self.embed.weight
        cos, sin = self.rotary(weight, torch.arange(capacity, device=weight.device)[None])
        return cos[0, :, None, : cos.shape[-1] // 2], sin[0, :, None, : sin.shape[-1] // 2]

    @classmethod
    def _agrees(cls, backbone: Backbone) -> bool:
        """Whether five tokens get the backbone's own states; not, for example, where this machine has no packed products."""
        ids, pad_id, device = [[2, 3, 4], [5, 6]], backbone.tokenizer.pad_token_id, backbone.device
        expected = backbone.hidden_states(pad_batch(ids, [[], []], pad_id, device))[1:].float()
        try:
            passes = MergedPasses(cls(backbone), pad_batch([row[:-1] for row in ids], [[], []], pad_id, device), 3)
            first, second = passes.prompts(), passes.tokens(torch.tensor([row[-1] for row in ids], device=device))
        except RuntimeError:
            return False
        found = torch.stack([first[0], second[0], first[1], second[1]]).float()
        return (found - expected).norm().item() < 0.02 * expected.norm().item()


class MergedLayer:
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, layer: Any, scratch: torch.Tensor):
        attention, mlp = layer.self_attn, layer.mlp
        self.before_attention, self.before_mlp = layer.input_layernorm, layer.post_attention_layernorm
        projections = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.into_heads, self.out = Product(projections, scratch), Product([attention.o_proj], scratch)
        self.inner, self.down = Product([mlp.gate_proj, mlp.up_proj], scratch), Product([mlp.down_proj], scratch)
        self.d, self.scaling = attention.head_dim, attention.scaling
        self.heads = [module.out_features // self.d for module in projections]

    def project(self, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """[N, H] -> queries, keys and values side by side, [N, heads of all three, d]; the first two turned by their positions."""
        heads = self.into_heads(self.before_attention(states)).unflatten(1, (-1, self.d))
        rotate(heads[:, : -self.heads[2]], cos, sin)
        return heads

    def finish(self, states: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """The layer's output [N, H] from its input and what attention found, [N, h d]."""
        states = self.out(attended).add_(states)
        gate, up = self.inner(self.before_mlp(states)).chunk(2, -1)
        return self.down(silu(gate).mul_(up)).add_(states)


class Product:
    """x [N, in] -> [N, sum of outs] through frozen linear layers that share an input, adapters merged.

    One matrix where that needs a copy anyway, and on a CPU in oneDNN's packed layout: twice as fast for the few rows of a step.
    """

    def __init__(self, modules: Sequence[nn.Module], scratch: torch.Tensor):
        """`scratch`: memory of at least PACKED_SIZES[1] numbers to merge in before packing; none of it is kept."""
        group = [found for found in map(frozen_linear, modules) if found is not None]
        first, sizes = group[0].weight, [len(one.weight) for one in group]
        self.packed = _can_pack(sum(sizes), first)
        self.pieces = [(one.weight, one.bias) for one in group]
        if self.packed or any(one.a is not None for one in group):
            shape = (sum(sizes), first.shape[1])
            weight = scratch[: shape[0] * shape[1]].view(shape) if self.packed else first.new_empty(shape)
            for one, part in zip(group, weight.split(sizes), strict=True):
                one.merged(out=part)
            biases = [first.new_zeros(size) if one.bias is None else one.bias for one, size in zip(group, sizes, strict=True)]
            bias = None if all(one.bias is None for one in group) else torch.cat(biases)
            self.pieces = [(torch.ops.mkldnn._reorder_linear_weight(weight, BLOCKS[-1]) if self.packed else weight, bias)]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self.packed:
            found = [linear(x, weight, bias) for weight, bias in self.pieces]
            return found[0] if len(found) == 1 else torch.cat(found, -1)
        (weight, bias), rows = self.pieces[0], len(x)
        x = pad(x, (0, 0, 0, -rows % ROWS)) if rows % ROWS else x
        y = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return y[:rows] if len(y) > rows else y


def in_blocks(function: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> torch.Tensor:
    """`function` on so many tokens at a time; tensors [N, ...] each, the result too."""
    left = len(tensors[0])
    if left <= BLOCKS[-1]:
        return function(*tensors)
    sizes: list[int] = []
    for size in BLOCKS:
        sizes += [size] * (left // size)
        left %= size
    sizes += [left] * (left > 0)
    result, done = torch.empty(0), 0
    for parts in zip(*(tensor.split(sizes) for tensor in tensors), strict=True):
        found = function(*parts)
        result = result if done else found.new_empty((len(tensors[0]), *found.shape[1:]))
        result[done : (done := done + len(found))] = found
    return result


def _can_pack(rows: int, weight: torch.Tensor) -> bool:
    least, most = PACKED_SIZES
    fits = weight.device.type == "cpu" and weight.dtype is torch.float32 and least <= rows * weight.shape[1] <= most
    return fits and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
