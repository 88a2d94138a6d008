"""How a run and a config differ, and a new run out of an old one: `run --fork NEW` takes over the stages that other settings leave alike.

The new run appears with its config and a journal that vouches for every stage in it, or it does not appear at all. Its stages are
copies and not hard links, so damage in one run is not damage in the other. Must never import torch or Ray.
"""

import os
import shutil
from pathlib import Path

from configs.errors import UserError
from configs.loading import flatten
from configs.schema import RunConfig
from configs.views import identity
from loop.keys import planned_keys
from loop.round import BASE
from loop.store import artifacts, base_files, run_config
from loop.store.journal import Journal, RunState, fold, read_events
from loop.store.layout import RunFolder, stage_name
from loop.store.lock import is_running

STAGES_SHOWN = 4
"""How many of the stages that a setting changes are named in a message."""


def check_same_run(folder: Path, state: RunState, config: RunConfig) -> None:
    """Raises UserError where the run was made with settings that differ from `config`, and names them."""
    if differing := find_other_settings(folder, state, config):
        alike, changed = shared_stages(folder, config)
        shown = ", ".join(changed[:STAGES_SHOWN])
        more = f" and {len(changed) - STAGES_SHOWN} more" if len(changed) > STAGES_SHOWN else ""
        raise UserError(
            f"the run {config.name!r} was started with other settings: {'; '.join(differing)}\n  they change: {shown or 'no stage'}{more}",
            str(RunFolder(folder).config),
            "leave these settings out to continue the run with its own settings, or add --fork NEW to start a new run that takes over "
            f"the {len(alike)} stages that do not change",
        )


def find_other_settings(folder: Path, state: RunState, config: RunConfig) -> list[str]:
    """How `config` differs from that of the run, as from `differences`.

    A run that has no committed stage yet can continue with any settings.
    """
    if not RunFolder(folder).config.exists() or not any(row.committed for _, _, row in state.stages()):
        return []
    return differences(run_config.read_config(folder, state), config)


def differences(theirs: RunConfig, ours: RunConfig) -> list[str]:
    """The settings that differ and change what is computed, one text for each. Settings marked as run time may differ."""
    before, now = ({key: repr(value) for key, value in flatten(identity(config)).items() if value != {}} for config in (theirs, ours))
    keys = sorted(key for key in before | now if before.get(key) != now.get(key))
    return [f"{key}: {before.get(key, 'nothing')} there, {now.get(key, 'nothing')} now" for key in keys]


def shared_stages(source: Path, config: RunConfig) -> tuple[list[str], list[str]]:
    """The stages that `config` asks for, in two lists: those that the run in `source` makes by the same recipe, and the others."""
    run = RunFolder(source)
    recorded = base_files.fingerprint(base_files.read_record(run.stage(BASE.name, None)).get("files"))
    before = planned_keys(run_config.read_config(source, fold(read_events(run.journal))), recorded)
    now = planned_keys(config, base_files.fingerprint_now(config))
    alike = [name for name, key in now.items() if before.get(name) == key]
    return alike, [name for name in now if name not in alike]


def fork(source: Path, target: Path, config: RunConfig) -> list[str]:
    """Make the run `target` with copies of the committed stages of `source` whose recipe is the same in `config`. Returns their names.

    Raises UserError where `target` exists already, or where a stage of the source is damaged.
    """
    if os.path.lexists(target):
        to_do = f"choose another name after --fork, or continue that run: loop run --name {target.name}"
        raise UserError(f"there is a run {target.name!r} already", str(target), to_do)
    prefix = f".{target.name}.fork-"
    for abandoned in target.parent.glob(f"{prefix}*"):
        if not is_running(abandoned.name.removeprefix(prefix)):
            shutil.rmtree(abandoned)
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
    """Copy the shared stages into a new run directory and write its journal. Returns the names of the stages."""
    state, journal = fold(read_events(RunFolder(source).journal)), Journal(RunFolder(half).journal)
    done = {stage_name(name, r): row.committed for r, name, row in state.stages() if row.state == "done" and row.committed}
    taken = [name for name in shared_stages(source, config)[0] if name in done]
    run_config.record_start(half, journal, config)
    for name in taken:
        committed = done[name]
        if damage := artifacts.find_damage(source / name, committed.manifest):
            to_do = f"delete that directory, and `loop run --name {source.name}` makes the stage again"
            raise UserError(f"{name} is damaged: {damage[0]}", str(source / name), to_do)
        shutil.copytree(source / name, half / name)
        journal.append("stage_committed", **committed.model_dump(exclude={"event", "at"}, exclude_none=True))
    journal.append("interrupted")
    return taken
