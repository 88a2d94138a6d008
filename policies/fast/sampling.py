"""A batch of prompts that is decoded token by token. First all prompts run at once, then one token of each row. Rows can leave early.

    decoding = MergedDecoding(merged_model, batch, capacity)    # the prompts, and the largest number of tokens that a row may have
    hidden = decoding.prefill()                                 # [B, H]: the states that predict the first tokens
    hidden = decoding.step(token_ids)                           # the states that predict the next ones
    decoding.keep(rows)                                         # drop all other rows

There are two kinds with the same results:
- `MergedDecoding` knows decoders of Llama's form. The adapter is merged into copies of the weights, projections that share an input are one
  product, and prompts have no padding. Below float32, merging would round most of a small adapter away, and samples would come from another
  policy than the one that is trained. There, the adapter is kept beside the weights.
- `TransformersDecoding` runs every decoder, also quantized ones.

Letters: B rows, N tokens of all prompts, S tokens of a row so far, H hidden, h heads, d head size.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention, silu

from policies.fast.attention import attend
from policies.fast.batches import Batch, pad_batch
from policies.fast.comparing import Rows, close
from policies.fast.functions import rotate
from policies.fast.kv_cache import KeysAndValues, cache_bytes, preallocated_cache
from policies.fast.layers import frozen_linear, is_known_layer
from policies.fast.lora import side_by_side
from policies.fast.model import FastModel
from policies.fast.precision import widened

BLOCKS = (256, 64)
"""Layers run on blocks of these numbers of tokens and a remainder. That saves memory, and there are few different shapes; oneDNN compiles
a kernel for each (1 ms)."""
ROWS = 16
"""Prepacked products round the number of rows up to a multiple of this. A batch should shrink in steps of it."""
FIXED_ROTARY_TYPES = ("default", "linear", "yarn", "llama3")
"""Types of rotary embedding that do not depend on the length of the row."""
STEPS = 2
"""How many tokens `replayed` decodes one by one."""
PREPACKED_SIZES = (2**15, 2**24)
"""Numbers of weights for which oneDNN's prepacked layout pays. Below, a plain product is as fast; above, the copy is too large."""


class Decoding(Protocol):
    """One batch that is being decoded."""

    start_states: torch.Tensor | None
    """What entered the model's `start_layer`, if it has one, in the last call: [N, H] of the prompts, row after row, then [B, H]."""

    def prefill(self) -> torch.Tensor: ...
    def step(self, token_ids: torch.Tensor) -> torch.Tensor: ...
    def logits(self, hidden: torch.Tensor) -> torch.Tensor: ...
    def keep(self, rows: torch.Tensor) -> None: ...


class TransformersDecoding:
    """Decodes with transformers' own forward pass, prompts padded on the left."""

    def __init__(self, model: FastModel, batch: Batch, capacity: int):
        P = batch.prompt_length
        self.input_ids, self.mask, self.positions = batch.input_ids[:, :P], batch.attention_mask[:, :P], batch.position_ids[:, :P]
        self.model, self.cache = model, preallocated_cache(model.causal_lm.config, capacity)
        self.start_states: torch.Tensor | None = None
        self.logits = model.logits

    def prefill(self) -> torch.Tensor:
        """Run the prompts. Returns [B, H]."""
        hidden = self._run()
        self.start_states = None if self.start_states is None else self.start_states[self.mask.bool()]
        self.model.largest_cache_bytes = max(self.model.largest_cache_bytes, cache_bytes(self.cache))
        return hidden

    def step(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Run one token of each row [B]. Returns [B, H]."""
        self.input_ids, self.positions = token_ids[:, None], self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        hidden = self._run()
        self.start_states = None if self.start_states is None else self.start_states[:, 0]
        return hidden

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all other rows."""
        self.cache.batch_select_indices(rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]

    def _run(self) -> torch.Tensor:
        with self.model.capture_start_states() as captured:
            states = self.model.run_padded(self.input_ids, self.mask, self.positions, past_key_values=self.cache, use_cache=True)
        self.start_states = captured[0] if captured else None
        return states[:, -1]


def replayed(begin: Callable[[Batch, int], Decoding], rows: Rows, pad_id: int, device: torch.device) -> torch.Tensor:
    """Decode rows whose tokens are known. Returns the states of the last STEPS + 1 tokens of each row, [B, STEPS + 1, H].

    The rest of each row is its prompt. Before the last step the rows change places, as rows do when others leave.
    """
    tokens, order = torch.tensor([row[-STEPS:] for row in rows], device=device), torch.arange(len(rows), device=device).flip(0)
    decoding = begin(pad_batch([row[:-STEPS] for row in rows], [[]] * len(rows), pad_id, device), max(map(len, rows)))
    states = [decoding.prefill(), *(decoding.step(tokens[:, i]) for i in range(STEPS - 1))]
    decoding.keep(order)
    return torch.stack([*states, decoding.step(tokens[order, -1])[order]], 1)


def last_states(states: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Return what `replayed` returns, from the states of all tokens, row after row [N, H]."""
    return torch.stack([of_row[-STEPS - 1 :] for of_row in states.split([len(row) for row in rows])])


class MergedDecoding:
    """Decodes with a `MergedModel`. In the KV cache prompts are padded on the right, and sampled tokens follow in the same column."""

    def __init__(self, merged: "MergedModel", batch: Batch, capacity: int):
        self.merged, self.unpadded, self.logits = merged, batch.unpadded, merged.logits
        B, L = self.unpadded.shape
        # All caches are made before the first pass. Made in between, they would leave holes in memory as large as its temporaries.
        self.caches = [KeysAndValues(merged.embed.weight, [(B, layer.heads[1], L + 1, layer.d)] * 2, capacity) for layer in merged.layers]
        self.cos, self.sin = merged.rotary_tables(capacity)
        self.positions = lengths = batch.attention_mask.sum(1)
        places = torch.arange(capacity, device=lengths.device)
        seen = (places < lengths[:, None]) | (places >= self.unpadded.shape[1])
        self.seen = None if seen.all() else seen[:, None, None]
        self.start_states: torch.Tensor | None = None

    def prefill(self) -> torch.Tensor:
        """Run the prompts. Returns [B, H]."""

        def attention(i: int, layer: MergedLayer, heads: torch.Tensor) -> torch.Tensor:
            query, key, value = self.unpadded.pad(heads).transpose(1, 2).split(layer.heads, 1)
            self.caches[i].append(key, value)
            return attend(query, key, value, self.unpadded, layer.scaling)

        hidden = self._run(self.unpadded.input_ids, self.unpadded.position_ids, attention, self.unpadded.last)
        model = self.merged.model
        model.largest_cache_bytes = max(model.largest_cache_bytes, sum(cache.nbytes for cache in self.caches))
        return hidden

    def step(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Run one token of each row [B]. Returns [B, H]."""

        def attention(i: int, layer: MergedLayer, heads: torch.Tensor) -> torch.Tensor:
            query, key, value = heads[:, :, None].split(layer.heads, 1)
            keys, values = self.caches[i].append(key, value)
            seen = None if self.seen is None else self.seen[..., : keys.shape[2]]
            grouped = layer.heads[0] != layer.heads[1]
            return scaled_dot_product_attention(query, keys, values, attn_mask=seen, scale=layer.scaling, enable_gqa=grouped)

        positions, self.positions = self.positions, self.positions + 1
        return self._run(token_ids, positions, attention)

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all other rows."""
        for cache in self.caches:
            cache.keep(rows)
        self.positions, self.seen = self.positions[rows], None if self.seen is None else self.seen[rows]

    def _run(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        attention: Callable[[int, "MergedLayer", torch.Tensor], torch.Tensor],
        only: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run every layer on [N] tokens, and the last one's second half on those in `only`.

        attention: computes [N, h, d] from the queries, keys and values [N, heads of all three, d] of a layer.
        """
        states, cos, sin = self.merged.embed(token_ids), self.cos[positions], self.sin[positions]
        for i, layer in enumerate(self.merged.layers):
            if i and i == self.merged.model.paths.start_layer:
                self.start_states = states
            attended = attention(i, layer, in_blocks(layer.project, states, cos, sin)).flatten(1)
            if only is not None and i == len(self.merged.layers) - 1:
                states, attended = states[only], attended[only]
            states = in_blocks(layer.finish, states, attended)
        return self.merged.norm(states)


class MergedModel:
    """A decoder of Llama's form with its active adapter, arranged in few products (see `Product`). For use under `no_grad` only."""

    def __init__(self, model: FastModel):
        self.model, decoder = model, model.decoder
        self.embed, self.norm, self.rotary = decoder.embed_tokens, decoder.norm, decoder.rotary_emb
        largest = max(parameter.numel() for parameter in model.causal_lm.parameters())
        scratch = torch.empty(min(PREPACKED_SIZES[1], 3 * largest), dtype=self.embed.weight.dtype)  # at most three layers are one product
        self.layers = [MergedLayer(layer, scratch) for layer in decoder.layers]
        self.head = None if model.frozen_head is None else Product([model.causal_lm.get_output_embeddings()], scratch)

    @classmethod
    def try_merging(cls, model: FastModel, pad_id: int) -> "MergedModel | None":
        """Merge the active adapter. Returns None if a part is not known, or if the numbers are not those of the model.

        The numbers are compared once for each model, on the first call.
        """
        layers, rotary = getattr(model.decoder, "layers", []), getattr(model.decoder, "rotary_emb", None)
        is_known = getattr(rotary, "rope_type", None) in FIXED_ROTARY_TYPES and all(is_known_layer(layer) for layer in layers)
        if model.paths.merged_decoding is False or not model.paths.unpadded or not is_known:
            return None
        if model.paths.merged_decoding is None:
            model.paths.merged_decoding = cls._agrees(model, pad_id)
        return cls(model) if model.paths.merged_decoding else None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[B, H] -> [B, V], in at least float32."""
        return widened(self.head(hidden)) if self.head is not None and self.head.prepacked else self.model.logits(hidden)

    def rotary_tables(self, capacity: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin of the positions 0 to capacity - 1, [capacity, 1, d / 2] each."""
        weight = self.embed.weight
        cos, sin = self.rotary(weight, torch.arange(capacity, device=weight.device)[None])
        return cos[0, :, None, : cos.shape[-1] // 2], sin[0, :, None, : sin.shape[-1] // 2]

    @classmethod
    def _agrees(cls, model: FastModel, pad_id: int) -> bool:
        """Compare with the model's own pass. The numbers differ, for example, on a machine that has no prepacked products."""
        merged, largest_cache_bytes = cls(model), model.largest_cache_bytes

        def agrees(rows: Rows) -> bool:
            expected = last_states(model.hidden_states(pad_batch(rows, [[]] * len(rows), pad_id, model.device)), rows)
            try:
                return close(replayed(partial(MergedDecoding, merged), rows, pad_id, model.device), expected, model.limit)
            except RuntimeError:
                return False

        agree = all(map(agrees, model.rows))
        model.largest_cache_bytes = largest_cache_bytes  # the comparison's own caches do not count
        return agree


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
        """[N, H] -> queries, keys and values side by side, [N, heads of all three, d], with the rotary embedding of queries and keys."""
        heads = self.into_heads(self.before_attention(states)).unflatten(1, (-1, self.d))
        rotate(heads[:, : -self.heads[2]], cos, sin)
        return heads

    def finish(self, states: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Return the layer's output [N, H] from its input and the result of attention, [N, h d]."""
        states = self.out(attended).add_(states)
        gate, up = self.inner(self.before_mlp(states)).chunk(2, -1)
        return self.down(silu(gate).mul_(up)).add_(states)


class Product:
    """x [N, in] -> [N, sum of outs] through frozen linear layers that share an input, with their adapters.

    In float32, the adapters are merged into copies of the weights. Below, they are two more products, which are small and come first (see
    `lora.py`). Merging into copies in float32 would need twice the base's memory again, and its products are slower where bfloat16's are
    fast.

    The layers become one matrix if they have to be copied anyway. On a CPU it has oneDNN's prepacked layout, which is twice as fast for
    the few rows of a decoding step.
    """

    def __init__(self, modules: Sequence[nn.Module], scratch: torch.Tensor):
        """scratch: memory for the largest product that is prepacked. Weights are merged there before."""
        group = [found for found in map(frozen_linear, modules) if found is not None]
        first, sizes = group[0].weight, [len(one.weight) for one in group]
        self.beside = side_by_side(group) if first.dtype.itemsize < 4 else None
        if self.beside is not None:
            group = [one._replace(a=None, b=None) for one in group]
        self.prepacked = _can_prepack(sum(sizes), first)
        self.pieces = [(one.weight, one.bias) for one in group]
        if self.prepacked or any(one.a is not None for one in group):
            shape = (sum(sizes), first.shape[1])
            weight = scratch[: shape[0] * shape[1]].view(shape) if self.prepacked else first.new_empty(shape)
            for one, part in zip(group, weight.split(sizes), strict=True):
                one.merged(out=part)
            biases = [first.new_zeros(size) if one.bias is None else one.bias for one, size in zip(group, sizes, strict=True)]
            bias = None if all(one.bias is None for one in group) else torch.cat(biases)
            self.pieces = [(torch.ops.mkldnn._reorder_linear_weight(weight, BLOCKS[-1]) if self.prepacked else weight, bias)]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[N, in] -> [N, sum of outs]."""
        if not self.prepacked:
            found = self._from_plain_layout(x)
            return found[0] if len(found) == 1 else torch.cat(found, -1)
        (weight, bias), rows = self.pieces[0], len(x)
        x = pad(x, (0, 0, 0, -rows % ROWS)) if rows % ROWS else x
        if self.beside is None:
            y = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        else:
            y = torch.ops.mkldnn._linear_pointwise(x, x @ self.beside[0] @ self.beside[1], weight, bias, "add")
        return y[:rows] if len(y) > rows else y

    def _from_plain_layout(self, x: torch.Tensor) -> list[torch.Tensor]:
        if self.beside is None:
            return [linear(x, weight, bias) for weight, bias in self.pieces]
        y = x @ self.beside[0] @ self.beside[1]
        for (weight, bias), columns in zip(self.pieces, y.split([len(weight) for weight, _ in self.pieces], -1), strict=True):
            columns.addmm_(x, weight.T)
            if bias is not None:
                columns += bias
        return [y]


def in_blocks(function: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> torch.Tensor:
    """Call `function` on some tokens at a time (see BLOCKS). Its arguments and its result are [N, ...] each."""
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


def _can_prepack(rows: int, weight: torch.Tensor) -> bool:
    least, most = PREPACKED_SIZES
    fits = weight.device.type == "cpu" and least <= rows * weight.shape[1] <= most
    if not (fits and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    return weight.dtype is torch.float32 or (weight.dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
