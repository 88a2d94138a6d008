"""A new run out of an old one: `run --fork NEW` with other settings takes over the stages that these do not touch.

The new run appears at once, with its config and a journal that vouches for every stage in it, or not at all. Files are copied and
not linked, so damage in one run is not damage in the other. Must never import torch, nor Ray.
"""

import hashlib
import os
import shutil
from pathlib import Path

from configs.errors import UserError
from configs.loading import dump_config
from configs.schema import RunConfig
from loop.keys import shared_stages, stage_directory
from loop.store import artifacts
from loop.store.journal import Journal, fold, read_events
from loop.store.lock import is_running


def fork(source: Path, target: Path, config: RunConfig) -> list[str]:
    """Make the run `target` with copies of the committed stages of `source` that `config` makes alike. Returns their names.

    Raises UserError where there is something at `target` already, or where a stage of the source is damaged.
    """
    if os.path.lexists(target):
        to_do = f"choose another name after --fork, or go on with that run: python -m loop run --name {target.name}"
        raise UserError(f"there is a run {target.name!r} already", str(target), to_do)
    prefix = f".{target.name}.fork-"
    for left in target.parent.glob(f"{prefix}*"):
        if not is_running(left.name.removeprefix(prefix)):
            shutil.rmtree(left)
    half = target.with_name(f"{prefix}{os.getpid()}")
    half.mkdir()
    try:
        taken = _fill(half, source, config)
        artifacts.sync_tree(half)
        half.rename(target)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return taken


def _fill(half: Path, source: Path, config: RunConfig) -> list[str]:
    state, journal = fold(read_events(source / "journal.jsonl")), Journal(half / "journal.jsonl")
    done = {f"{stage_directory(r)}/{name}": row.committed for r, name, row in state.stages() if row.state == "done" and row.committed}
    taken = [name for name in shared_stages(source, config)[0] if name in done]
    text = dump_config(config)
    journal.append("run_started", num_rounds=config.num_rounds, config=hashlib.sha256(text.encode()).hexdigest())
    artifacts.write_synced(half / "config.yaml", text)
    for name in taken:
        committed = done[name]
        if damage := artifacts.find_damage(source / name, committed.manifest):
            to_do = f"delete that directory: `python -m loop run --name {source.name}` makes it again"
            raise UserError(f"{name} is damaged: {damage[0]}", str(source / name), to_do)
        shutil.copytree(source / name, half / name)
        journal.append("stage_committed", **committed.model_dump(exclude={"event", "at"}, exclude_none=True))
    journal.append("interrupted")
    return taken
