"""Hidden states and logits of a causal language model, by the fastest way that gives transformers' numbers.

    model = FastModel(causal_lm)
    probe(model, pad_id, start_layer=4)         # in probe.py: compares each path with transformers, and keeps those that agree
    states = model.hidden_states(batch)         # [N, H], without padding

The fast paths are:
- No padding (`attention.py`).
- Fused layers (`layers.py`).
- The second half of the last layer runs for chosen tokens only.
- Passes start at a middle layer, `start_layer`, from states that an earlier pass has kept. This works if only the layers from there on have
  adapters, because then the states are the same under every adapter.

Letters: N real tokens of a batch, M chosen tokens, H hidden, V vocabulary.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from policies.fast.attention import UNPADDED
from policies.fast.batches import Batch, Unpadded
from policies.fast.comparing import limit_of
from policies.fast.layers import frozen_linear, takes_only, trimmed
from policies.fast.lora import Linear
from policies.fast.precision import widened


@dataclass
class FastPaths:
    """The fast paths that give the right numbers on this model."""

    unpadded: bool = False  # run without padding
    trimmed: bool = False  # run the second half of the last layer for chosen tokens only
    start_layer: int = 0  # the layer at which a pass can start from kept states; 0 means none
    merged_decoding: bool | None = None  # decode with `sampling.MergedModel`; None means that nobody has needed it yet


class FastModel:
    """A causal language model of transformers, with or without adapters in its layers."""

    def __init__(self, causal_lm: Any):
        self.causal_lm = causal_lm
        self.paths = FastPaths()
        self.largest_cache_bytes = 0
        """Size of the largest KV cache so far."""
        self.limit = limit_of(causal_lm)
        """How near a fast path must be to the model's own numbers, relative to their norm (see `comparing.py`)."""
        self.rows: list[list[list[int]]] = []
        """The rows on which they are compared. `probe` makes them."""
        self._takes_positions = "position_ids" in inspect.signature(self.decoder.forward).parameters
        text_config = causal_lm.config.get_text_config()
        self._logit_scale = getattr(text_config, "logit_scale", None) or 1.0 / (getattr(text_config, "logits_scaling", None) or 1.0)
        self._logit_cap = getattr(text_config, "final_logit_softcapping", None)

    @property
    def decoder(self) -> Any:
        """The model without its language model head."""
        return self.causal_lm.base_model

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.causal_lm.device

    # -- forward ------------------------------------------------------------------------------------------------------

    def hidden_states(
        self,
        batch: Batch,
        start_states: torch.Tensor | None = None,
        only: torch.Tensor | None = None,
        unpadded: Unpadded | None = None,
    ) -> torch.Tensor:
        """Return the states after the final norm, row after row: [N, H], or [M, H] for the tokens `only` [M].

        start_states: what enters `start_layer`, [all real tokens of the batch, H], if it is known. The layers below are then not run.
        unpadded: the tokens to run, if they are not all of the batch's. `only` counts these.
        """
        unpadded = unpadded or batch.unpadded
        if not self.paths.unpadded:
            padded = self.run_padded(batch.input_ids, batch.attention_mask, batch.position_ids, use_cache=False)
            return padded.flatten(0, 1)[unpadded.index if only is None else unpadded.index[only]]
        if start_states is not None and len(unpadded.kept) != len(start_states):
            start_states = start_states[unpadded.kept]
        states = self._run(unpadded, start_states, only if self.paths.trimmed else None)
        return states if only is None or self.paths.trimmed else states[only]

    def run_padded(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Run transformers' own forward pass on [B, T] tokens. The mask is [B, tokens in the cache + T]. Returns [B, T, H].

        The mask has two dimensions, because architectures disagree about what a number in a larger one means.
        """
        if self._takes_positions:
            kwargs["position_ids"] = position_ids
        return self.decoder(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state

    def _run(self, unpadded: Unpadded, start_states: torch.Tensor | None, only: torch.Tensor | None) -> torch.Tensor:
        """Run the layers on unpadded tokens, from `start_layer` on if `start_states` [N, H] are given."""
        inputs: dict[str, Any] = {"position_ids": unpadded.position_ids[None], "unpadded": unpadded}
        start = None if start_states is None else start_states[None]
        if takes_only(self.decoder):
            inputs |= {"input_ids": unpadded.input_ids[None]} if start is None else {"inputs_embeds": start}
            first_layer = 0 if start is None else self.paths.start_layer
            return self.decoder(**inputs, first_layer=first_layer, only=only).last_hidden_state[0]
        with self._changed(start, only):
            return self.decoder(**inputs, input_ids=unpadded.input_ids[None], use_cache=False).last_hidden_state[0]

    @contextmanager
    def _changed(self, start_states: torch.Tensor | None, only: torch.Tensor | None) -> Iterator[None]:
        """Change a decoder that `layers.py` does not know: unpadded attention, stand-ins for lower layers, a trimmed last layer.

        Every layer keeps its place in the list, because some decoders look up what a layer gets by its number (`layer_types`).
        """
        config, changes_layers = self.decoder.config, start_states is not None or only is not None
        layers, before = self.decoder.layers if changes_layers else None, config._attn_implementation
        config._attn_implementation = UNPADDED
        if layers is not None:
            changed = list(layers)
            if start_states is not None:
                changed[: self.paths.start_layer] = [StandIn(layer, start_states) for layer in layers[: self.paths.start_layer]]
            if only is not None:
                changed[-1] = TrimmedLayer(changed[-1], only)
            self.decoder.layers = nn.ModuleList(changed)
        try:
            yield
        finally:
            config._attn_implementation = before
            if layers is not None:
                self.decoder.layers = layers

    @contextmanager
    def capture_start_states(self) -> Iterator[list[torch.Tensor]]:
        """Collect what enters `start_layer` in each forward pass inside the block; nothing if there is no start layer."""
        seen: list[torch.Tensor] = []
        if not self.paths.start_layer:
            yield seen
            return
        hook = self.decoder.layers[self.paths.start_layer].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        try:
            yield seen
        finally:
            hook.remove()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., H] -> [..., V], in float32 if the model computes in less."""
        logits = widened(self.causal_lm.get_output_embeddings()(hidden)) * self._logit_scale
        return logits if self._logit_cap is None else self._logit_cap * torch.tanh(logits / self._logit_cap)

    @property
    def frozen_head(self) -> Linear | None:
        """The language model head, if the logits come from this frozen linear layer and nothing else, also no adapter."""
        head = frozen_linear(self.causal_lm.get_output_embeddings()) if self._logit_scale == 1.0 and self._logit_cap is None else None
        return head if head is not None and head.a is None else None


class Wrapped(nn.Module):
    """Takes a layer's place. Everything that it does not have itself is the layer's."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        """Return what the layer calls by this name."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


class TrimmedLayer(Wrapped):
    """Runs `layers.trimmed`."""

    def __init__(self, layer: nn.Module, only: torch.Tensor):
        super().__init__(layer)
        self.only = only

    def forward(self, states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """[1, N, H] -> [1, M, H]."""
        return trimmed(self.layer, states, self.only, **kwargs)


class StandIn(Wrapped):
    """Gives what the layers so far would have computed, instead of computing it."""

    def __init__(self, layer: nn.Module, states: torch.Tensor):
        super().__init__(layer)
        self.states = states

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the states [1, N, H] that leave the last stand-in."""
        return self.states
