"""The config that a run holds: `config.yaml`, written at each start, and read by later starts.

Invariant: the journal has the hash of every config that was ever written, because the journal's line comes first. So after a crash
between the two, the older config is still one that the journal knows. Must never import torch or Ray.
"""

import hashlib
from pathlib import Path

from configs.errors import UserError
from configs.loading import dump_config, read_yaml, validate
from configs.schema import RunConfig
from loop.store import artifacts
from loop.store.journal import Journal, RunState
from loop.store.layout import RunFolder


def record_start(folder: Path, journal: Journal, config: RunConfig) -> None:
    """Write to the journal that the run starts with `config`, then write `config.yaml`."""
    text = dump_config(config)
    journal.append("run_started", num_rounds=config.num_rounds, config=hashlib.sha256(text.encode()).hexdigest())
    artifacts.write_synced(RunFolder(folder).config, text)


def read_config(folder: Path, state: RunState) -> RunConfig:
    """The config of a run. Raises UserError where the file was edited, and where this version does not know its settings."""
    path = RunFolder(folder).config
    if damage := find_config_damage(folder, state):
        to_do = "restore the file, or delete it and give all settings of the run again"
        raise UserError(f"the config of the run {damage}", str(path), to_do)
    try:
        return validate(read_yaml(path), str(path))
    except UserError as error:
        to_do = "use the version of loop that started the run, or start a new run with another --name"
        raise UserError(f"the config of the run cannot be used: {error.what}", str(path), to_do) from None


def find_config_damage(folder: Path, state: RunState) -> str | None:
    """What is wrong with `config.yaml`, or None."""
    try:
        found = hashlib.sha256(RunFolder(folder).config.read_bytes()).hexdigest()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if not state.configs or found in state.configs else "is not what the run was started with"
