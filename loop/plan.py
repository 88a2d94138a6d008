"""What a config asks for, without making anything: the key of every stage, and so what two configs have in common.

A key is the hash of a stage's recipe; here the digest of an input is stood in for by its key, so equal keys mean equal recipes
all the way down. Must never import torch, nor Ray.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from configs.loading import read_yaml
from configs.schema import RunConfig
from configs.views import identity, identity_at
from loop import artifacts
from loop.artifacts import Artifact
from loop.round import Inputs, Stage, run_rounds


def stage_directory(round_number: int | None) -> str:
    """Where in the run directory the stages of a round are; None: those before round 0."""
    return "setup" if round_number is None else f"round-{round_number:03d}"


def stage_key(config: RunConfig, stage: Stage, round_number: int | None, inputs: dict[str, Any]) -> str:
    """Hash of the recipe: what the stage is, what it reads of the config, and the digests of what it is given."""
    return artifacts.hash_json(
        {
            "stage": stage.name,
            "version": stage.version,
            "round": round_number,
            "seed": config.seed if stage.seeded else None,
            "config": {name: identity_at(config, name) for name in stage.reads},
            "inputs": {k: [a.digest for a in v] if isinstance(v, list) else v.digest for k, v in sorted(inputs.items())},
        }
    )


class Plan:
    """A `Run` that makes nothing and remembers what it was asked for."""

    def __init__(self, config: RunConfig):
        self.config = config
        self.keys: dict[str, str] = {}

    def stage(self, stage: Stage, round_number: int | None = None, **inputs: Inputs) -> Artifact:
        key = stage_key(self.config, stage, round_number, {name: value for name, value in inputs.items() if value})
        self.keys[f"{stage_directory(round_number)}/{stage.name}"] = key
        return Artifact(Path(), key, digest=key, metrics={}, seconds=0.0)


def plan(config: RunConfig) -> dict[str, str]:
    """The stages of a run in order, "round-000/policy" -> key, as if every digest were the key."""
    planned = Plan(config)
    run_rounds(planned)
    return planned.keys


def differences(theirs: RunConfig, ours: RunConfig) -> list[str]:
    """The settings that differ and mean another run, a line each. Settings of run time may differ."""
    before, now = _flat(identity(theirs)), _flat(identity(ours))
    return [f"{key}: {before[key]!r} there, {now[key]!r} now" for key in sorted(before) if before[key] != now[key]]


def shared_stages(source: Path, config: RunConfig) -> tuple[list[str], list[str]]:
    """Of the stages that `config` asks for: those that the run in `source` makes alike, and the others."""
    before, now = plan(RunConfig.model_validate(read_yaml(source / "config.yaml"))), plan(config)
    alike = [name for name, key in now.items() if before.get(name) == key]
    return alike, [name for name in now if name not in alike]


def fork(source: Path, target: Path, config: RunConfig) -> list[str]:
    """Begin the run `target` with the committed stages of `source` that `config` makes alike. Files are linked, not copied."""
    taken = []
    for name in shared_stages(source, config)[0]:
        if (source / name / artifacts.MANIFEST).exists() and not (target / name).exists():
            work = target / "work" / f"fork-{name.replace('/', '-')}"
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(source / name, work, copy_function=_link)
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            work.rename(target / name)
            taken.append(name)
    return taken


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
