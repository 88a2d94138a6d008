"""The frozen base, divided over the workers (`runtime.shard_base`): each of n workers keeps one n-th of every unit's bytes.

A unit is a decoder layer, or the embedding and the output layer (one unit if they share their weights). Before a module needs its unit, the
workers put it together, and one unit at a time is whole. Norms and what else is small stay on every worker, and so do the adapters.

It takes all workers to put a unit together, but they do not run the same passes: responses end at different times, shards come from a
queue, and minibatches have other rows. Therefore the workers first tell each other which unit they need, and put together the one with the
lowest number. A worker that needs none takes part until no worker does; it comes here before each of its other meetings with the workers
(`parallel.before_meetings`). A worker that is behind has the lower number, so workers in different passes come together again.

The weights of a unit are views of one buffer, whose memory comes and goes. What autograd has saved of a forward pass are views of it as
well, so they hold the weights again as soon as the unit is whole.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from configs.errors import UserError
from policies import parallel

ALIGNMENT = 64
"""Bytes. Every weight begins at a multiple of this, as memory does that torch allocates."""


class Unit:
    """Some modules whose weights are put together at once."""

    def __init__(self, number: int, parameters: Sequence[nn.Parameter], device: torch.device):
        self.number, workers = number, parallel.world_size()
        whole = [parameter.data for parameter in parameters]
        starts = [0]
        for data in whole:
            starts.append(starts[-1] + -(-data.nbytes // ALIGNMENT) * ALIGNMENT)
        self.nbytes = -(-starts[-1] // (ALIGNMENT * workers)) * ALIGNMENT * workers
        self._buffer = torch.zeros(self.nbytes, dtype=torch.uint8, device=device)
        for parameter, data, start in zip(parameters, whole, starts, strict=False):
            parameter.data = self._buffer[start : start + data.nbytes].view(data.dtype).view(data.shape)
            parameter.data.copy_(data)
        self.part = self._buffer.chunk(workers)[parallel.rank()].clone()
        self.empty()

    def fill(self) -> None:
        """Put the weights together. All workers must do this at once."""
        self._buffer.untyped_storage().resize_(self.nbytes)
        parallel.put_together(self._buffer, self.part)

    def empty(self) -> None:
        """Free the memory of the whole weights. This worker's part stays."""
        self._buffer.untyped_storage().resize_(0)


class ShardedBase:
    """The weights of a causal language model without adapters, divided over the workers. Adapters may come and go afterwards."""

    def __init__(self, causal_lm: Any, device: torch.device):
        """Keep this worker's part only, on `device`. All workers must have loaded the same weights."""
        embedding, head = causal_lm.get_input_embeddings(), causal_lm.get_output_embeddings()
        self.units: list[Unit] = []
        self._whole: Unit | None = None
        unit_of: dict[int, Unit] = {}
        for module in (embedding, *_decoder_layers(causal_lm), head):
            parameters = list(module.parameters())
            if id(parameters[0]) not in unit_of:
                self.units.append(Unit(len(self.units), parameters, device))
                unit_of |= {id(parameter): self.units[-1] for parameter in parameters}
            self._watch(module, unit_of[id(parameters[0])])
        causal_lm.to(device)
        of_head = unit_of[id(head.weight)]

        def whole_head() -> nn.Module:
            """TRL's SFT and `fast/logprobs.py` read the weight of the output layer without calling it."""
            self.bring(of_head)
            return head

        causal_lm.get_output_embeddings = whole_head
        parallel.before_meetings(self.help_others)

    @property
    def parts(self) -> list[torch.Tensor]:
        """This worker's part of each unit."""
        return [unit.part for unit in self.units]

    def bring(self, unit: Unit) -> None:
        """Make a unit whole, and meanwhile help the workers that need another one first."""
        while self._whole is not unit:
            self._put_together(unit.number)

    def help_others(self) -> None:
        """Take part until no worker needs a unit."""
        while self._put_together(len(self.units)):
            pass

    def empty(self) -> None:
        """Keep no unit whole."""
        if self._whole is not None:
            self._whole.empty()
            self._whole = None

    def _put_together(self, wanted: int) -> bool:
        """Put together the first unit that a worker needs; `wanted` is what this one needs. Returns False if none needs any."""
        number = parallel.smallest(wanted)
        if number == len(self.units):
            return False
        if self._whole is not self.units[number]:
            self.empty()
        self._whole = self.units[number]
        self._whole.fill()
        return True

    def _watch(self, module: Any, unit: Unit) -> None:
        """Bring the unit before the module's forward pass, and again before its backward pass."""
        module._apply = lambda function, recurse=True: module  # trainers call `Module.to`, which would read weights that are not there

        def before_backward(module: nn.Module, arguments: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            if states.requires_grad:
                states.register_hook(lambda gradient: self.bring(unit))

        module.register_forward_pre_hook(lambda module, arguments: self.bring(unit))
        module.register_forward_hook(before_backward)


def _decoder_layers(causal_lm: Any) -> nn.ModuleList:
    """The list of decoder layers, whatever the model calls it. Raises UserError if there is none."""
    depth = causal_lm.config.get_text_config().num_hidden_layers
    for module in causal_lm.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise UserError("this model has no list of decoder layers that could be divided", "runtime.shard_base", "set it to false")
