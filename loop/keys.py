"""What a config asks for, without making anything: the key of every stage, and so what two configs have in common.

A key is the hash of a stage's recipe; here the digest of an input is stood in for by its key, so equal keys mean equal recipes
all the way down. Must never import torch, nor Ray.
"""

import hashlib
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.loading import read_yaml, validate
from configs.schema import RunConfig
from configs.views import identity, identity_at
from loop.round import BASE, Inputs, Stage, run_rounds
from loop.store import artifacts
from loop.store.artifacts import Artifact
from loop.store.base_files import fingerprint, fingerprint_now, read_record
from loop.store.journal import RunState, fold, read_events


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
    """A `Run` that makes nothing and remembers what it was asked for. base: `base_files.fingerprint` of a model folder of the user's."""

    def __init__(self, config: RunConfig, base: str = ""):
        self.config, self.base = config, base
        self.keys: dict[str, str] = {}

    def stage(self, stage: Stage, round_number: int | None = None, **inputs: Inputs) -> Artifact:
        key = stage_key(self.config, stage, round_number, {name: value for name, value in inputs.items() if value})
        if stage == BASE and self.base:
            key = artifacts.hash_json([key, self.base])
        self.keys[f"{stage_directory(round_number)}/{stage.name}"] = key
        return Artifact(Path(), key, digest=key, metrics={}, seconds=0.0)


def plan(config: RunConfig, base: str = "") -> dict[str, str]:
    """The stages of a run in order, "round-000/policy" -> key, as if every digest were the key."""
    planned = Plan(config, base)
    run_rounds(planned)
    return planned.keys


def differences(theirs: RunConfig, ours: RunConfig) -> list[str]:
    """The settings that differ and mean another run, a line each. Settings of run time may differ."""
    before, now = _flat(identity(theirs)), _flat(identity(ours))
    return [f"{key}: {before[key]!r} there, {now[key]!r} now" for key in sorted(before) if before[key] != now[key]]


def config_of(folder: Path, state: RunState) -> RunConfig:
    """The config that a run holds. Raises UserError where the file was changed, or where this version does not know its settings."""
    path = folder / "config.yaml"
    if damage := find_config_damage(folder, state):
        to_do = "put back what was there, or delete the file and give all the run's settings again"
        raise UserError(f"the config of the run {damage}", str(path), to_do)
    try:
        return validate(read_yaml(path), str(path))
    except UserError as error:
        to_do = "use the version of loop that the run was started with, or start a new run with another --name"
        raise UserError(f"the config of the run cannot be used: {error.what}", str(path), to_do) from None


def find_config_damage(folder: Path, state: RunState) -> str | None:
    """What is wrong with `config.yaml`, or None. Each start tells the journal before it writes the file, so an older one is whole too."""
    path = folder / "config.yaml"
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if not state.configs or found in state.configs else "is not what the run was started with"


def shared_stages(source: Path, config: RunConfig) -> tuple[list[str], list[str]]:
    """Of the stages that `config` asks for: those that the run in `source` makes alike, and the others."""
    recorded = fingerprint(read_record(source / "setup" / BASE.name).get("files"))
    before = plan(config_of(source, fold(read_events(source / "journal.jsonl"))), recorded)
    now = plan(config, fingerprint_now(config))
    alike = [name for name, key in now.items() if before.get(name) == key]
    return alike, [name for name in now if name not in alike]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
