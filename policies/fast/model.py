"""Hidden states and logits of a causal language model, by the fastest way that gives transformers' numbers.

    model = FastModel(causal_lm)
    model.probe(pad_id, start_layer=4)          # compares each fast path with transformers, and keeps those that agree
    states = model.hidden_states(batch)         # [N, H], without padding

The fast paths are:
- No padding (`attention.py`).
- Fused layers (`layers.py`).
- The second half of the last layer runs for chosen tokens only.
- Passes start at a middle layer, `start_layer`, from states that an earlier pass has kept. This works if only the layers from there on have
  adapters, because then the states are the same under every adapter.

Letters: N real tokens of a batch, M chosen tokens, H hidden, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from policies.fast.attention import UNPADDED
from policies.fast.batches import Batch, Unpadded, pad_batch
from policies.fast.layers import frozen_linear, fuse, takes_only, trimmed, unfuse
from policies.fast.lora import Linear
from policies.fast.precision import widened

TOLERANCE = 0.02
"""Largest difference from transformers' numbers, relative to their norm. It leaves room for bfloat16; a wrong computation exceeds it."""


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
            padded = self.decoder(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids, use_cache=False
            )
            return padded.last_hidden_state.flatten(0, 1)[unpadded.index if only is None else unpadded.index[only]]
        inputs: dict[str, Any]
        if start_states is None:
            inputs, first_layer = {"input_ids": unpadded.input_ids[None]}, 0
        else:
            complete = len(unpadded.kept) == len(start_states)
            inputs = {"inputs_embeds": (start_states if complete else start_states[unpadded.kept])[None]}
            first_layer = self.paths.start_layer
        inputs |= {"position_ids": unpadded.position_ids[None], "unpadded": unpadded}
        if not self.paths.trimmed:
            states = self._run(inputs, first_layer, None)
            return states if only is None else states[only]
        return self._run(inputs, first_layer, only)

    def _run(self, inputs: dict[str, Any], first_layer: int, only: torch.Tensor | None) -> torch.Tensor:
        """Run the layers from `first_layer` on, on unpadded tokens."""
        if takes_only(self.decoder):
            return self.decoder(**inputs, first_layer=first_layer, only=only).last_hidden_state[0]
        with self._changed(first_layer, only):
            return self.decoder(**inputs, use_cache=False).last_hidden_state[0]

    @contextmanager
    def _changed(self, first_layer: int, only: torch.Tensor | None) -> Iterator[None]:
        """Change a decoder that `layers.py` does not know: unpadded attention, fewer layers, a trimmed last layer."""
        config, layers = self.decoder.config, self.decoder.layers if first_layer or only is not None else None
        before = config._attn_implementation
        config._attn_implementation = UNPADDED
        if layers is not None:
            upper = list(layers[first_layer:])
            self.decoder.layers = nn.ModuleList(upper if only is None else [*upper[:-1], TrimmedLayer(upper[-1], only)])
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

    # -- what the model can do ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def probe(self, pad_id: int, start_layer: int) -> None:
        """Compare each fast path with transformers' forward pass on six tokens, and switch on those that agree.

        start_layer: the layer at which passes should start, 0 for none.
        """
        batch = pad_batch([[2, 3], [4]], [[5, 6], [7]], pad_id, self.device)
        expected = self.hidden_states(batch)
        everything = torch.arange(len(expected), device=self.device)

        def agrees(compute: Callable[[], torch.Tensor]) -> bool:
            try:
                return close(compute(), expected)
            except (AttributeError, IndexError, TypeError, ValueError, RuntimeError):  # what modules of other forms raise
                return False

        def from_the_start_layer() -> torch.Tensor:
            with self.capture_start_states() as states:
                self.hidden_states(batch)
            return self.hidden_states(batch, states[0][0])

        fuse(self.decoder)
        if not agrees(lambda: self.hidden_states(batch)):
            unfuse(self.decoder)
        paths = self.paths
        paths.unpadded = True
        paths.unpadded = agrees(lambda: self.hidden_states(batch))
        paths.trimmed = paths.unpadded
        paths.trimmed = paths.unpadded and agrees(lambda: self.hidden_states(batch, only=everything))
        paths.start_layer = start_layer if paths.unpadded else 0
        if paths.start_layer and not agrees(from_the_start_layer):
            paths.start_layer = 0


class TrimmedLayer(nn.Module):
    """Takes a layer's place and runs `layers.trimmed`."""

    def __init__(self, layer: nn.Module, only: torch.Tensor):
        super().__init__()
        self.layer, self.only = layer, only

    def forward(self, states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """[1, N, H] -> [1, M, H]."""
        return trimmed(self.layer, states, self.only, **kwargs)


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Tell whether two tensors differ by less than `TOLERANCE` of the norm of the second."""
    return ((found - expected).float().norm() < TOLERANCE * expected.float().norm()).item()
