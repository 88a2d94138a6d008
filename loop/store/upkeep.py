"""What can be asked of a run besides making it: `verify` tells whether it is whole, `collect_garbage` removes what no start would use.

Must never import torch or Ray.
"""

import shutil
from pathlib import Path

from loop.store import artifacts
from loop.store.base_files import find_changes
from loop.store.journal import StageState, ends_whole, fold, read_events
from loop.store.layout import MANIFEST, RunFolder, StageWork, place
from loop.store.lock import one_writer
from loop.store.run_config import find_config_damage


def verify(folder: Path, thorough: bool = True) -> tuple[list[str], int]:
    """Hash all files of a run again. Returns what is damaged, one text for each, and the number of stages that were checked.

    Journal and directories are compared both ways: every stage that is done must exist, and every directory must be in the journal.
    thorough: also hash a user's base model again where it looks untouched. Raises UserError for a damaged journal.
    """
    run = RunFolder(folder)
    state = fold(read_events(run.journal))
    damage = [] if ends_whole(run.journal) else [f"{run.journal}: the last line is torn"]
    if config := find_config_damage(folder, state):
        damage.append(f"{run.config}: {config}")
    known = {(place(r), name): row for r, name, row in state.stages()}
    for (where, name), row in known.items():
        if row.state == "done" and row.committed:
            found = artifacts.find_damage(folder / where / name, row.committed.manifest)
            damage += found or [f"{line} (a file of the base model)" for line in find_changes(folder / where / name, thorough)]
    for path in run.places():
        damage += _find_strangers(path, {name: row for (where, name), row in known.items() if where == path.name})
    return damage, sum(row.state == "done" for row in known.values())


def _find_strangers(directory: Path, known: dict[str, StageState]) -> list[str]:
    """What is in a directory of committed stages without a line of the journal. known: the stages that have one."""
    if directory.is_symlink() or not directory.is_dir():
        return [f"{directory}: {'is a symbolic link' if directory.is_symlink() else 'does not belong here'}"]
    if not known and not any(directory.iterdir()):
        return [f"{directory}: is an empty directory"]
    damage = []
    for path in sorted(directory.iterdir()):
        row = known.get(path.name, StageState())
        if row.state == "done":
            continue
        if not (path / MANIFEST).is_file():
            damage.append(f"{path}: does not belong here")
        elif found := artifacts.find_damage(path):
            damage += found
        elif row.committed is None or artifacts.hash_file(path / MANIFEST) != row.committed.manifest:
            damage.append(f"{path}: is whole, but no line of the journal names it; if it belongs to the run, the same run command uses it")
    return damage


def collect_garbage(folder: Path) -> int:
    """Remove what no start of this run would use: payloads of dead attempts, work of finished stages. Returns the bytes.

    The checkpoints of unfinished stages stay. Raises UserError while a process works on the run, OSError where the disk refuses.
    """
    removed = 0
    run = RunFolder(folder)
    with one_writer(folder):
        state = fold(read_events(run.journal))
        unfinished = {run.work(name, r) for r, name, row in state.stages() if row.state != "done"}
        for path in sorted(run.all_work.glob("*")):
            work = StageWork(path)
            kept = (work.key, work.checkpoints) if work in unfinished else ()
            useless = [entry for entry in path.iterdir() if entry not in kept] if kept else [path]
            for entry in useless:
                removed += _size(entry)
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return removed


def _size(path: Path) -> int:
    """The bytes of a file, or of all files under a directory."""
    return sum(file.lstat().st_size for file in [path, *path.rglob("*")] if file.is_file())
