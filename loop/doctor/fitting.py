"""Which settings to lower so that a run fits, found by lowering them in a copy of the config and predicting again.

Must never import torch.
"""

from typing import Any

from configs.errors import UserError
from configs.schema import RunConfig
from loop.doctor.lengths import Lengths
from loop.doctor.needs import Need, Plan, Room
from loop.failures import training_section
from policies.footprint import Model
from policies.shapes import Shape

GIB = 2**30
LAST_RESORTS: tuple[tuple[str, Any], ...] = (
    ("base.gradient_checkpointing", True),
    ("base.dtype", "bfloat16"),
    ("base.quantization", "nf4"),
)
"""What helps where batches of one row are still too large, in this order. The last two change what is computed."""


def plan_for(shape: Shape, config: RunConfig, lengths: Lengths, on_gpu: bool) -> Plan:
    """The plan of a config."""
    return Plan(Model(shape, config.base, config.lora, on_gpu), config, lengths)


def too_large(plan: Plan, room: Room) -> list[Need]:
    """The phases that do not fit, in the order of the run."""
    return [need for phases in plan.phases() for need in phases if need.total + room.program > room.total]


def check_fits(shape: Shape, config: RunConfig, lengths: Lengths, room: Room, on_gpu: bool) -> None:
    """Raise UserError if a stage does not fit. It names the settings to lower, with the values that would fit."""
    found = too_large(plan_for(shape, config, lengths, on_gpu), room)
    if not found:
        return
    largest = max(found, key=lambda need: need.total)
    smaller = find_smaller(shape, config, lengths, room, on_gpu)
    words = " ".join(f"{name}={str(value).lower()}" for name, value in smaller.items())
    to_do = f"it fits with {words}" if smaller else "no setting makes it fit: take a smaller base, shorter rows, or a larger machine"
    owner, size = max(largest.owners.items(), key=lambda item: item[1])
    needed = in_gib(largest.total + room.program)
    raise UserError(
        f"the {largest.stage} stage needs {needed} ({largest.phase}; {in_gib(size)} of it for {owner}), "
        f"and {room.device} has {in_gib(room.total)}",
        "the prediction of `loop doctor`, which has all stages",
        to_do,
    )


def find_smaller(shape: Shape, config: RunConfig, lengths: Lengths, room: Room, on_gpu: bool) -> dict[str, Any]:
    """The settings to change, with the largest values that fit among halves of the present ones; empty where nothing helps.

    Run-time settings come first, because the results stay the same up to rounding.
    """
    given, resorts = config, list(LAST_RESORTS)
    changed: dict[str, Any] = {}
    while found := too_large(plan_for(shape, config, lengths, on_gpu), room):
        name = _setting_of(found[0], config)
        value = _value(config, name)
        if name and value > 1:
            config, changed = _with(config, name, value // 2), changed | {name: value // 2}
            continue
        while resorts and getattr(config.base, resorts[0][0].partition(".")[2]) == resorts[0][1]:
            resorts.pop(0)
        if not resorts:
            return {}
        name, value = resorts.pop(0)
        config, changed = _with(config, name, value), changed | {name: value}
    for name in sorted(changed, key=lambda name: name not in dict(LAST_RESORTS)):  # what turned out not to be needed, large changes first
        others = {other: value for other, value in changed.items() if other != name}
        if not too_large(plan_for(shape, _with_all(given, others), lengths, on_gpu), room):
            changed = others
    return changed


def in_gib(size: int) -> str:
    """A size for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def _setting_of(need: Need, config: RunConfig) -> str:
    """The setting that decides how much a phase takes; empty where there is none."""
    if need.phase == "sampling":
        return "generation.batch_size"
    if need.phase == "scoring":
        return "runtime.tokens_per_batch"
    section = training_section(need.stage, config)
    return f"{section}.micro_batch_size" if section else ""


def _value(config: RunConfig, name: str) -> int:
    """The present value of that setting. A micro-batch that is not given has all rows of a worker."""
    if not name:
        return 0
    section = getattr(config, name.partition(".")[0])
    if name in ("generation.batch_size", "runtime.tokens_per_batch"):
        return getattr(section, name.partition(".")[2])
    minibatches = config.ppo.num_minibatches if name == "ppo.micro_batch_size" else 1
    whole = max(1, section.batch_size // config.runtime.workers // minibatches)
    return min(section.micro_batch_size or whole, whole)


def _with_all(config: RunConfig, values: dict[str, Any]) -> RunConfig:
    """The config with other values of several settings."""
    for name, value in values.items():
        config = _with(config, name, value)
    return config


def _with(config: RunConfig, name: str, value: Any) -> RunConfig:
    """The config with another value of one setting."""
    section, _, key = name.partition(".")
    return config.model_copy(update={section: getattr(config, section).model_copy(update={key: value})})
