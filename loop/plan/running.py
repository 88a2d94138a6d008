"""`plan run`: operations, time, memory, labels and price of a run by stage and round, from the doctor's prediction.

How often each stage does what is counted (loop/doctor/work.py). How long that takes is either timed on this machine (`Timed`) or calculated
for a GPU of the table (`OnGPU`). Must never import torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from configs.schema import RunConfig
from loop.doctor.fitting import plan_for
from loop.doctor.lengths import Lengths
from loop.doctor.work import (
    UNITS,
    Pairs,
    labels_of_round,
    round_work,
    setup_work,
    stage_flops,
    stage_seconds,
    unit_flops,
    wins_of_round,
)
from loop.keys import planned_keys
from loop.plan.gpus import GIGA, HOUR, GPUType
from loop.round import BASE, LABEL
from loop.store.base_cache import BaseCache
from loop.store.layout import stage_name
from policies.footprint import Model
from policies.shapes import Shape

START_SECONDS = {"ray": 18.0, "in-process": 8.0}
"""The start of Ray and of the workers, which load torch and transformers. Measured with Ray on two cores: 7.6 s and 10.8 s."""
STAGE_SECONDS = 1.0
"""What every stage takes besides the units that are counted: to load adapters, to read and write rows, to fit what needs no model. Stages
of the embedded default that compute no unit take 0.3 to 2.3 s. Not counted for a base that comes from the cache."""
BANDWIDTH_SHARE = 0.6
"""The share of a GPU's memory bandwidth that sampling reaches when it reads all weights for each token. Not measured."""


@dataclass(frozen=True)
class Subject:
    """What is planned: a config, the shape of its base, and the data as far as it is counted."""

    config: RunConfig
    shape: Shape
    lengths: Lengths
    pairs: Pairs
    on_gpu: bool

    @property
    def model(self) -> Model:
        """The base with what decides how it is held and run."""
        return Model(self.shape, self.config.base, self.config.lora, self.on_gpu)

    def flops(self) -> dict[str, float]:
        """Unit -> operations."""
        return unit_flops(self.model, self.config, self.lengths)

    def has_cached_base(self) -> bool:
        """Whether the base is in the cache, so that the run does not train it."""
        key = planned_keys(self.config)[stage_name(BASE.name, None)]
        return self.config.base.model == "embedded" and BaseCache(key).folder.exists()


class Clock(Protocol):
    """Says how long one worker would take for each unit of work, with all of its rows."""

    def seconds(self, subject: Subject) -> dict[str, float]: ...


@dataclass(frozen=True)
class Timed:
    """Times from a few steps on this machine. Another base is assumed to take longer in proportion to its operations."""

    subject: Subject
    measured: Mapping[str, float]

    def seconds(self, subject: Subject) -> dict[str, float]:
        before, now = self.subject.flops(), subject.flops()
        return {unit: seconds * now[unit] / before[unit] for unit, seconds in self.measured.items()}


@dataclass(frozen=True)
class OnGPU:
    """Times by arithmetic: operations at a share of the peak, and for each token of a response one reading of all weights."""

    gpu: GPUType
    utilisation: float

    def seconds(self, subject: Subject) -> dict[str, float]:
        config, peak = subject.config, self.gpu.peak(subject.config.base.dtype) * self.utilisation
        found = {unit: flops / peak for unit, flops in subject.flops().items()}
        of_a_batch = subject.lengths.longest_response * subject.model.base_bytes / (self.gpu.bandwidth * GIGA * BANDWIDTH_SHARE)
        batches = max(1.0, config.ppo.batch_size / config.generation.batch_size)
        return found | {"sample": found["sample"] + of_a_batch, "policy": found["policy"] + batches * of_a_batch}


@dataclass(frozen=True)
class Rent:
    """Prices in the currency that is shown. hour: of one worker (a GPU, or this machine). None is a price that nobody has stated."""

    hour: float | None
    label: float | None

    def price(self, seconds: float, labels: int) -> float | None:
        """The price of some hours of one worker and some labels; None where neither has a price."""
        if self.hour is None and self.label is None:
            return None
        return seconds / HOUR * (self.hour or 0.0) + labels * (self.label or 0.0)


def plan_stages(subject: Subject, clock: Clock, rent: Rent) -> list[dict[str, Any]]:
    """Every stage of the run, in order: its round (None before round 0), operations, seconds of one worker, bytes, labels and price."""
    config, units = subject.config, subject.flops()
    seconds, cached = clock.seconds(subject), subject.has_cached_base()
    needs = {need.stage: need.total for need in plan_for(subject.shape, config, subject.lengths, subject.on_gpu).needs()}
    work = {stage_name(stage, None): done for stage, done in setup_work(config, subject.pairs).items()}
    for number in range(config.num_rounds):
        work |= {stage_name(stage, number): done for stage, done in round_work(config, subject.pairs, number).items()}
    if cached:
        work[stage_name(BASE.name, None)] = {}
    flops = stage_flops(work, units)
    rows = []
    for name in planned_keys(config):
        place, _, stage = name.partition("/")
        round_number = None if place == "setup" else int(place.removeprefix("round-"))
        labels = labels_of_round(config) + wins_of_round(config, round_number or 0) if stage == LABEL.name else 0
        done = work.get(name, {})
        taken = stage_seconds({stage: done}, {unit: seconds.get(unit, 0.0) for unit in UNITS})[stage]
        taken += 0.0 if cached and stage == BASE.name else STAGE_SECONDS
        rows.append(
            {
                "stage": stage,
                "round": round_number,
                "flops": flops.get(name, 0.0),
                "seconds": taken,
                "memory_bytes": needs.get(stage),
                "labels": labels,
                "price": rent.price(taken, labels),
            }
        )
    return rows


def total(rows: list[dict[str, Any]], subject: Subject, rent: Rent, program_bytes: int) -> dict[str, Any]:
    """Some stages together, with the start of the workers. seconds: of all workers; wall_seconds: until it is done.

    The workers share every batch, so with n of them the time is taken to be 1 / n. memory_bytes: the largest stage with the libraries.
    """
    start = START_SECONDS[subject.config.runtime.executor]
    seconds, labels = sum(row["seconds"] for row in rows), sum(row["labels"] for row in rows)
    workers = subject.config.runtime.workers
    held = (seconds / workers + start) * workers
    return {
        "flops": sum(row["flops"] for row in rows),
        "seconds": held,
        "wall_seconds": held / workers,
        "memory_bytes": max(row["memory_bytes"] or 0 for row in rows) + program_bytes,
        "labels": labels,
        "price": rent.price(held, labels),
    }
