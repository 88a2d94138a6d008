"""Bytes by owner for each stage of a run (`fitting.py` says which setting to lower where they do not fit).

A stage has one or several phases, such as sampling and training, which do not overlap. It needs what its largest phase needs. Everything
follows from the shape of the base, the config and the longest rows, so no model is loaded. Must never import torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from configs.schema import RunConfig
from configs.sections import TrainerSection
from loop.doctor.lengths import Lengths
from loop.doctor.machine import Machine
from policies.footprint import FLOAT, Model
from rewards.ready_folders import weight_bytes

OWNERS = ("base", "adapters", "heads", "optimizer", "kv_cache", "merged", "activations", "logits", "labeler")
"""What memory is needed for. merged: copies of weights, while sampling. activations: the states of layers. labeler: the weights of
`labeler.model`."""
PROGRAM_BYTES = 620 * 2**20
"""Memory of a worker without any model: Python, torch, transformers, TRL and what they load late. Measured with torch 2.13 on a CPU."""
RAY_BYTES = 900 * 2**20
"""Memory of the driver and of Ray's own processes."""
GPU_PROGRAM_BYTES = 700 * 2**20
"""Memory of a GPU that CUDA and its libraries take. Not measured."""
WASTE = 1.35
"""What a worker holds on a CPU for each byte of activations: the allocator of the C library leaves holes between tensors of less
than 32 MiB. Measured: 1.3 to 1.4."""
PLAIN_WASTE = 2.1
"""The same where transformers' and PEFT's own modules run, with their many temporaries. Measured on GPT-2: 2.0 to 2.2."""
GPU_WASTE = 1.1
"""The same for torch's allocator on a GPU. Not measured."""
SCORING_ROWS = 128
"""The most rows of a pass that scores answers or measures log-probs outside of PPO, which `runtime.tokens_per_batch` limits too
(policies/batching.py)."""
ROWS_PER_PASS = 4
"""Micro-batches of PPO in one pass without gradients (policies/ppo.py)."""
BLOCK = 128
"""Tokens in a row when the embedded base is trained (policies/tiny_base.py)."""


@dataclass(frozen=True)
class Need:
    """The bytes of each owner in the largest phase of a stage, on each worker."""

    stage: str
    phase: str
    owners: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All of them together."""
        return sum(self.owners.values())


class Plan:
    """What each stage of a run needs on each of its workers."""

    def __init__(self, model: Model, config: RunConfig, lengths: Lengths):
        self.model, self.config, self.lengths = model, config, lengths
        on_cpu = WASTE if model.is_fused else PLAIN_WASTE
        self.waste = GPU_WASTE if model.on_gpu else on_cpu
        self.row = lengths.longest_prompt + lengths.longest_completion
        self.answered = lengths.longest_prompt + lengths.longest_response

    def needs(self) -> list[Need]:
        """Each stage with the phase that needs the most."""
        return [max(phases, key=lambda need: need.total) for phases in self.phases()]

    def phases(self) -> Iterator[list[Need]]:
        """The phases of each stage that needs the model."""
        config = self.config
        rounds, has_value = config.num_rounds, config.ppo.advantage == "gae" and config.ppo.value_model == "adapter"
        starts = rounds > 1 and config.ppo.init != "sft" and config.ppo.reference == "start"
        if config.base.model == "embedded":
            yield [self._pretraining()]
        yield [self._sft("sft", config.sft, 1)]
        if config.uses_pmp:
            yield [self._reward("pmp", 2), self._scoring("pmp", 2)]
        labeler = weight_bytes(config.labeler)
        if labeler:
            yield [self._need("labeler", "labeling", 1, labeler=labeler)]
        yield [self._reward("reward", 2), self._sampling("reward", 2), self._scoring("reward", 2)]
        yield list(self._dpo() if config.trainer == "dpo" else self._ppo(2 + rounds + has_value + starts))
        yield [self._sampling("sample", 2)]
        if labeler:
            yield [self._need("label", "labeling", 2, labeler=labeler)]
        yield [self._reward("retrain", 3), self._scoring("retrain", 3)]
        yield [self._scoring("select", 3), *([self._reward("select", 4)] if "model" in config.select.kinds else [])]
        if config.is_refreshed:
            yield [self._sft("refresh", config.keep, 2)]
        yield [self._sampling("evaluate", 4), self._scoring("evaluate", 4)]

    # -- phases -----------------------------------------------------------------------------------------------------------

    def _need(self, stage: str, phase: str, adapters: int, trained: int = 0, **owners: float) -> Need:
        """What stays, and what the phase adds. trained: the bytes of what is trained."""
        model = self.model
        wasted = {"activations": round(owners.get("activations", 0) * self.waste)}
        stays = {"base": model.base_bytes, "adapters": adapters * model.adapter_bytes, "heads": 2 * model.head_bytes}
        stays["optimizer"] = model.optimizer_bytes(trained)
        adds = {name: round(owners.get(name, 0)) for name in ("kv_cache", "merged", "logits", "labeler")}
        return Need(stage, phase, stays | adds | wasted)

    def _pretraining(self) -> Need:
        """The embedded base is trained as a whole, by transformers' own modules."""
        model, config = self.model, self.config
        tokens, shape = config.base.pretraining_batch_size // config.runtime.workers * BLOCK, model.shape
        layer = 4 * shape.hidden + 5 * shape.query_width + 4 * shape.intermediate
        logits = 3 * tokens * shape.vocabulary * FLOAT
        activations = tokens * layer * shape.layers * FLOAT + model.backward_bytes(tokens)
        return self._need("base", "training", 0, trained=shape.parameters * FLOAT, activations=activations, logits=logits)

    def _sft(self, stage: str, section: TrainerSection, adapters: int, rows: int = 1) -> Need:
        """Rows are padded, and their logits exist in tiles. rows: how many of them an example has."""
        model, tokens = self.model, rows * self._micro_batch(section) * self.row
        activations = model.saved_bytes(tokens, self.row, padded=True) + model.backward_bytes(tokens)
        logits = model.sft_logit_bytes(tokens)
        return self._need(stage, "training", adapters, trained=model.adapter_bytes, activations=activations, logits=logits)

    def _reward(self, stage: str, adapters: int) -> Need:
        """A pair is two rows. With votes, the better one has a loss on its answer too."""
        model, config = self.model, self.config
        section = {"select": config.select, "pmp": config.pmp}.get(stage, config.reward)
        pairs = self._micro_batch(section)
        tokens = 2 * pairs * self.row
        activations = model.saved_bytes(tokens, self.row) + model.backward_bytes(tokens)
        logits = model.logprob_bytes(pairs * self.lengths.longest_completion) if stage == "pmp" else 0
        trained = model.adapter_bytes + model.head_bytes
        return self._need(stage, "training", adapters, trained=trained, activations=activations, logits=logits)

    def _dpo(self) -> Iterator[Need]:
        """The log-probs of the reference, which is the SFT policy, then training. TRL does it as SFT, with two rows of each pair."""
        yield self._scoring("policy", 2)
        yield self._sft("policy", self.config.dpo, 2, rows=2)

    def _ppo(self, adapters: int) -> Iterator[Need]:
        """Sampling, passes without gradients over several micro-batches, scores of the whole batch, and training."""
        model, ppo = self.model, self.config.ppo
        own = ppo.batch_size // self.config.runtime.workers
        rows = min(ppo.micro_batch_size or own, own // ppo.num_minibatches)
        trained = model.adapter_bytes * (1 + (ppo.advantage == "gae" and ppo.value_model == "adapter"))
        kept = own * self.answered * model.shape.hidden * model.number_bytes * (2 if self.config.lora.layers == "upper-half" else 1)
        tokens, responses = rows * self.answered, rows * self.lengths.longest_response
        yield self._sampling("policy", adapters, rows=own, trained=trained, kept=kept)
        passed = min(ROWS_PER_PASS * rows, own)
        yield self._need(
            "policy",
            "log-probs",
            adapters,
            trained,
            activations=kept + model.pass_bytes(passed * self.answered, self.answered),
            logits=model.logprob_bytes(passed * self.lengths.longest_response),
        )
        yield self._scoring("policy", adapters, rows=own, trained=trained, kept=kept)
        yield self._need(
            "policy",
            "training",
            adapters,
            trained,
            activations=kept + model.saved_bytes(tokens, self.answered) + model.backward_bytes(tokens),
            logits=model.logprob_bytes(responses),
        )

    def _sampling(self, stage: str, adapters: int, rows: int | None = None, trained: int = 0, kept: int = 0) -> Need:
        """Prompts run together, then one token of each row at a time. rows: fewer than `generation.batch_size`."""
        model, lengths, batch = self.model, self.lengths, self.config.generation.batch_size
        rows = min(batch, rows or batch)
        prompts, width = rows * lengths.longest_prompt, model.shape.query_width + 2 * model.shape.kv_width
        inside = prompts * (2 * model.shape.hidden + 2 * width) * model.number_bytes
        return self._need(
            stage,
            "sampling",
            adapters,
            trained,
            kv_cache=model.kv_cache_bytes(rows, self.answered),
            merged=model.merged_bytes,
            activations=inside + kept,
            logits=model.draw_bytes(rows),
        )

    def _scoring(self, stage: str, adapters: int, rows: int = SCORING_ROWS, trained: int = 0, kept: int = 0) -> Need:
        """Passes without gradients over rows of the data, or of samples."""
        model, by_ppo = self.model, stage == "policy" and self.config.trainer == "ppo"
        length = self.answered if by_ppo else max(self.row, self.answered)
        rows = min(rows, SCORING_ROWS, max(1, self.config.runtime.tokens_per_batch // length))
        logits = (
            model.logprob_bytes(rows * self.lengths.longest_completion)
            if stage in ("select", "evaluate") or (stage == "policy" and not by_ppo)
            else 0
        )
        inside = kept + model.pass_bytes(rows * length, length)
        return self._need(stage, "scoring", adapters, trained, activations=inside, logits=logits)

    def _micro_batch(self, section: TrainerSection) -> int:
        """The rows in one forward pass of a worker."""
        own = section.batch_size // self.config.runtime.workers
        return min(section.micro_batch_size or own, own)


@dataclass(frozen=True)
class Room:
    """What a worker may take, in bytes: `total` of the device, and what is `free` of it now. program: what it takes without a model."""

    device: str
    total: int
    free: int
    program: int


def find_room(machine: Machine, config: RunConfig) -> Room:
    """The room of each worker: a GPU of its own where there are GPUs, else its share of this machine's memory.

    Of several GPUs the smallest counts, because any worker may get it.
    """
    if machine.gpus:
        smallest = min(machine.gpus, key=lambda gpu: gpu.total)
        return Room(f"the GPU ({smallest.name})", smallest.total, smallest.free, GPU_PROGRAM_BYTES)
    workers, around = config.runtime.workers, RAY_BYTES if config.runtime.executor == "ray" else 0
    total, free = ((size - around) // workers for size in (machine.memory, machine.free_memory))
    device = "this machine" if workers == 1 else f"this machine for each of {workers} workers"
    return Room(device, total, free, PROGRAM_BYTES)


def largest(needs: list[Need]) -> Need:
    """The stage that needs the most."""
    return max(needs, key=lambda need: need.total)
