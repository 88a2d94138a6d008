"""The key of a stage: the hash of its recipe. A committed stage with the right key is used again, so keys decide what is made.

A recipe is the stage's name and version, the settings that it reads, the seed, the round, the digests of its inputs, and the hashes
of the user functions that it calls. Must never import torch or Ray.
"""

from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from configs.views import identity_at
from loop.functions import hash_functions
from loop.round import BASE, Inputs, Stage, run_rounds
from loop.store.artifacts import Artifact, hash_json
from loop.store.layout import stage_name


def stage_key(config: RunConfig, stage: Stage, round_number: int | None, inputs: dict[str, Any]) -> str:
    """The key of one stage, given the artifacts that it is made from. Raises UserError where the file of a user's function is missing."""
    recipe = {
        "stage": stage.name,
        "version": stage.version,
        "round": round_number,
        "seed": config.seed if stage.seeded else None,
        "config": {name: identity_at(config, name) for name in stage.reads},
        "inputs": {k: [a.digest for a in v] if isinstance(v, list) else v.digest for k, v in sorted(inputs.items())},
    }
    if functions := hash_functions(config, stage):
        recipe["functions"] = functions
    return hash_json(recipe)


def planned_keys(config: RunConfig, base: str = "") -> dict[str, str]:
    """The key of every stage of a run, in order: "round-000/policy" -> key. Nothing is made.

    The digests of the inputs are not known before they are made, so their keys stand in for them. Equal keys then mean equal recipes
    from the first stage on. base: `base_files.fingerprint` of the user's model folder, whose bytes are part of the recipe.
    """
    run = _DryRun(config, base)
    run_rounds(run)
    return run.keys


class _DryRun:
    """A `Run` (see round.py) that makes nothing and notes the key of every stage."""

    def __init__(self, config: RunConfig, base: str):
        self.config, self.base = config, base
        self.keys: dict[str, str] = {}

    def stage(self, stage: Stage, round_number: int | None = None, **inputs: Inputs) -> Artifact:
        key = stage_key(self.config, stage, round_number, {name: value for name, value in inputs.items() if value})
        if stage == BASE and self.base:
            key = hash_json([key, self.base])
        self.keys[stage_name(stage.name, round_number)] = key
        return Artifact(Path(), key, digest=key, metrics={}, seconds=0.0)
