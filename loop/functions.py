"""Which user functions the stages call, and whether they are still the same (`configs/user_functions.py`).

The folder of a reward model that the user names (`labeler.model`) is treated as a function is: both are the user's own files.
The hash of each function's file is part of the key of the stage that calls it, as the weights of the base are part of the base's. The
metrics of the stage record it. Must never import torch or Ray.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from configs import user_functions
from configs.errors import UserError
from configs.schema import RunConfig
from configs.views import identity_at
from loop.round import STAGES, Stage
from loop.store.base_files import fingerprint, hash_files
from loop.store.journal import RunState
from rewards.ready_folders import find_model

FUNCTIONS = "functions"
"""The metric of a stage that records the functions it called, with the hashes of their files."""
MODEL = "labeler.model"
TRANSLATOR = "pivot.model"
"""The settings that name a model, whose name may look like a function's (`mistral:latest`), and never a function."""


def hash_functions(config: RunConfig, stage: Stage) -> dict[str, str]:
    """SHA-256 of the file of each function that a stage calls, by the function's name, and one hash for each folder of a reward model that
    it loads. Raises UserError if the file of a function is missing."""
    functions = {name: user_functions.find_hash(name, setting) for name, setting in _called(config, stage).items()}
    return functions | {folder: _hash_now(folder) for folder in _loaded(config, stage)}


def check_functions(config: RunConfig, place: Callable[[tuple[str, ...]], str]) -> None:
    """Raises UserError for a function that cannot be found. `place` tells where a setting was written."""
    for stage in STAGES:
        for name, setting in _called(config, stage).items():
            user_functions.check(name, place(tuple(setting.split("."))))


def find_changed(config: RunConfig, stage: Stage, metrics: Mapping[str, Any]) -> list[str]:
    """The functions whose files have changed since a stage was made, by its metrics."""
    before = metrics.get(FUNCTIONS, {})
    return [name for name, now in hash_functions(config, stage).items() if before.get(name, now) != now]


def are_changed(config: RunConfig, state: RunState) -> bool:
    """Whether any committed stage of a run called a function that has changed since."""
    committed = [(stage, row.committed) for _, name, row in state.stages() if row.committed for stage in STAGES if stage.name == name]
    return any(find_changed(config, stage, event.metrics or {}) for stage, event in committed)


def check_unchanged(hashes: Mapping[str, str]) -> None:
    """Raises UserError if a function is not the one that the stage's key was made from."""
    for name, expected in hashes.items():
        if _hash_now(name) != expected:
            to_do = "run the same command again: the stage is then made by the new function"
            raise UserError(f"{name} was edited while the run was using it", name, to_do)


def _hash_now(name: str) -> str:
    """The hash of a function's file, or of a folder."""
    return user_functions.find_hash(name) if user_functions.is_function(name) else fingerprint(hash_files(Path(name)))


def _loaded(config: RunConfig, stage: Stage) -> list[str]:
    """The folders of models that a stage loads and the run does not train: a labeling reward model, and a translator."""
    found = find_model(config.labeler) if MODEL in stage.calls else None
    translators = [config.pivot.model, config.pivot.model_back] if TRANSLATOR in stage.calls and config.respond == "pivot" else []
    folders = [str(folder) for folder in found.folders] if found else []
    return folders + [name for name in translators if name and Path(name).is_dir()]


def _called(config: RunConfig, stage: Stage) -> dict[str, str]:
    """The user functions that a stage calls -> the setting that names each."""
    found: dict[str, str] = {}
    for setting in stage.calls:
        if setting in (MODEL, TRANSLATOR):
            continue
        value = identity_at(config, setting)
        items = value if isinstance(value, list | dict) else [value]  # of a mapping, its keys are names
        names = [item["path"] if isinstance(item, dict) else item for item in items]
        found |= {name: setting for name in names if user_functions.is_function(name)}
    return found
