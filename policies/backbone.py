"""One frozen base model with its tokenizer. Each role is a LoRA adapter on it (`adapters.py`), and all roles share the fast forward pass.

    backbone = Backbone.load(folder, base_config, lora_section)
    backbone.add_adapter("policy", copy_of="sft")
    with backbone.role("policy", train=True):   # sets the adapter, gradient flags and mode, and restores them on the way out
        states = backbone.hidden_states(batch)

`role(None)` switches the adapters off: log-probs are then equal to the base's, bit for bit. Outside of all roles nothing is trainable.
Letters: N real tokens of a batch, M chosen tokens, H hidden.
"""

import math
import os
from collections.abc import Iterable
from typing import Any

import torch

from configs.errors import UserError
from configs.schema import BaseConfig, LoraSection, RuntimeConfig
from policies import parallel
from policies.adapters import AdaptedModel
from policies.base_folder import max_positions
from policies.fast.batches import Batch, Unpadded, pad_batch
from policies.fast.comparing import close
from policies.fast.model import FastModel
from policies.fast.probe import Unusable, probe
from policies.loading import load_causal_lm, load_tokenizer, switch_noise_off
from policies.sharding import ShardedBase
from policies.tokenization import end_also_at


class Backbone(AdaptedModel):
    """The base model, its tokenizer, its adapters and its forward pass."""

    def __init__(
        self,
        causal_lm: Any,
        tokenizer: Any,
        lora: LoraSection,
        name: str = "",
        gradient_checkpointing: bool = False,
        shard_on: torch.device | None = None,
    ):
        """shard_on: the device to which the base goes, divided over the workers (see `sharding.py`). All fast paths are off then."""
        switch_noise_off(causal_lm)
        super().__init__(causal_lm, lora, location=name)
        causal_lm.config.use_cache = False
        if gradient_checkpointing:
            causal_lm.activation_checkpointing_enable({"use_reentrant": False})
        self.tokenizer, self.name = tokenizer, name
        end_also_at(tokenizer, getattr(causal_lm.generation_config, "eos_token_id", None))
        self.tokens_per_batch = RuntimeConfig().tokens_per_batch
        """`runtime.tokens_per_batch`, which whoever loads the backbone sets."""
        self.sharded = ShardedBase(causal_lm, shard_on) if shard_on else None
        self.fast = FastModel(causal_lm)
        if not self.sharded:
            self._probe()
        self._check_train_mode()

    @classmethod
    def load(cls, folder: str, config: BaseConfig, lora: LoraSection, shard: bool = False) -> "Backbone":
        """Load from a hub id or a folder. Raises UserError if there is no causal language model.

        shard: divide the base over the workers. It is loaded in the machine's memory, and only this worker's part goes to a GPU.
        """
        device, shard = "cuda" if torch.cuda.is_available() else "cpu", shard and parallel.world_size() > 1
        causal_lm = load_causal_lm(folder, config, "cpu" if shard else device)
        tokenizer = load_tokenizer(folder, config, causal_lm.config)
        shard_on = torch.device(device) if shard else None
        backbone = cls(causal_lm, tokenizer, lora, config.model, config.gradient_checkpointing, shard_on)
        if os.path.isdir(folder):
            backbone.location = os.path.abspath(folder)
        else:
            backbone.location, backbone.revision = folder, config.revision
        return backbone

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.causal_lm.device

    @property
    def hidden_size(self) -> int:
        """H, the size of a hidden state after the final norm. OPT-350m projects its states to a smaller size before its output layer."""
        return self.causal_lm.get_output_embeddings().in_features

    @property
    def max_tokens(self) -> int | float:
        """The most tokens that a row may have. It is infinite if the model has no limit."""
        return max_positions(self.causal_lm.config.get_text_config().to_dict()) or math.inf

    @property
    def start_layer(self) -> int:
        """The first layer with adapters, if passes can start there from kept states; else 0 (see `fast/model.py`)."""
        return self.fast.paths.start_layer

    def pad(self, prompts: Iterable[Any], responses: Iterable[Any]) -> Batch:
        """Make a batch on this device of lists of token ids."""
        return pad_batch(list(prompts), list(responses), self.tokenizer.pad_token_id, self.device)

    def hidden_states(
        self,
        batch: Batch,
        start_states: torch.Tensor | None = None,
        only: torch.Tensor | None = None,
        unpadded: Unpadded | None = None,
    ) -> torch.Tensor:
        """Return the states after the final norm under the present role, [N, H] or [M, H]. See `FastModel.hidden_states`."""
        return self.fast.hidden_states(batch, start_states, only, unpadded)

    def _probe(self) -> None:
        """Find the fast paths. Raises UserError if the model has other numbers in a batch, or token by token, than for a row alone."""
        config = self.causal_lm.config.get_text_config()
        start_layer = config.num_hidden_layers // 2 if self.lora_settings.layers == "upper-half" else 0
        try:
            probe(self.fast, self.tokenizer.pad_token_id, start_layer, max_positions(config.to_dict()))
        except Unusable as reason:
            raise UserError(str(reason), self.name, "choose another base.model: docs/models.md lists those that are tested") from None

    @torch.no_grad()
    def _check_train_mode(self) -> None:
        """Raise UserError if train mode changes the numbers, on six tokens. Log-probs of training must be those of sampling."""
        batch = self.pad([[2, 3, 4]], [[5, 6, 7]])
        sampling = self.hidden_states(batch)
        self._set_mode(True)
        training = self.hidden_states(batch)
        self._set_mode(False)
        if not close(training, sampling, self.fast.limit):
            raise UserError("this model computes other numbers in train mode, even without dropout", self.name, "choose another base.model")
