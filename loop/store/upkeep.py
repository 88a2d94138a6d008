"""What is asked of a run besides making it: whether it is whole (`verify`), and what of it may go (`collect_garbage`).

Must never import torch, nor Ray.
"""

import shutil
from pathlib import Path

from loop.failures import disk_errors_explained
from loop.keys import find_config_damage, stage_directory
from loop.round import BASE
from loop.store import artifacts
from loop.store.base_files import find_changes
from loop.store.journal import StageState, ends_whole, fold, read_events
from loop.store.lock import one_writer


def verify(folder: Path, thorough: bool = True) -> tuple[list[str], int]:
    """Re-hash a run: (what is damaged, a line each; how many stages were looked at). Raises UserError for a damaged journal.

    Journal and directories are compared both ways: what is done has to be there, and what is there has to be in the journal.
    thorough: hash a user's base model again too, although it looks untouched.
    """
    path = folder / "journal.jsonl"
    state = fold(read_events(path))
    damage = [] if ends_whole(path) else [f"{path}: the last line is torn"]
    if config := find_config_damage(folder, state):
        damage.append(f"{folder / 'config.yaml'}: {config}")
    known = {(stage_directory(r), name): row for r, name, row in state.stages()}
    for (where, name), row in known.items():
        if row.state == "done" and row.committed:
            found = artifacts.find_damage(folder / where / name, row.committed.manifest)
            if name == BASE.name and not found:
                found = [f"{line} (a file of the base model)" for line in find_changes(folder / where / name, thorough)]
            damage += found
    for place in sorted([*folder.glob("setup"), *folder.glob("round-*")]):
        damage += _find_strangers(place, {name: row for (where, name), row in known.items() if where == place.name})
    return damage, sum(row.state == "done" for row in known.values())


def _find_strangers(place: Path, known: dict[str, StageState]) -> list[str]:
    """What lies where stages are committed and is vouched for by no line of the journal. known: the stages that have one."""
    if place.is_symlink() or not place.is_dir():
        return [f"{place}: {'is a symbolic link' if place.is_symlink() else 'does not belong here'}"]
    if not known and not any(place.iterdir()):
        return [f"{place}: is an empty directory"]
    damage = []
    for path in sorted(place.iterdir()):
        row = known.get(path.name, StageState())
        if row.state == "done":
            continue
        if not (path / artifacts.MANIFEST).is_file():
            damage.append(f"{path}: does not belong here")
        elif found := artifacts.find_damage(path):
            damage += found
        elif row.committed is None or artifacts.hash_file(path / artifacts.MANIFEST) != row.committed.manifest:
            damage.append(
                f"{path}: is whole, but no line of the journal names it; the same run command takes it up if it belongs to the run"
            )
    return damage


def collect_garbage(folder: Path) -> int:
    """Remove what no start of this run would use: payloads of dead attempts, work of finished stages. Returns the bytes.

    The checkpoints of unfinished stages stay. Raises UserError while a process works on the run, LoopError where the disk refuses.
    """
    removed = 0
    with disk_errors_explained(folder), one_writer(folder):
        state = fold(read_events(folder / "journal.jsonl"))
        unfinished = {f"{stage_directory(r)}-{name}" for r, name, row in state.stages() if row.state != "done"}
        for work in sorted((folder / "work").glob("*")):
            useless = [work] if work.name not in unfinished else [p for p in work.iterdir() if p.name not in ("key", "checkpoints")]
            for path in useless:
                removed += sum(file.lstat().st_size for file in [path, *path.rglob("*")] if file.is_file())
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return removed
