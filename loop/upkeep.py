"""What is asked of a run besides making it: whether it is whole (`verify`), and what of it may go (`collect_garbage`).

Must never import torch, nor Ray.
"""

import hashlib
import shutil
from pathlib import Path

from loop import artifacts
from loop.failures import disk_errors_explained
from loop.journal import ends_whole, fold, read_events
from loop.lock import one_writer
from loop.plan import find_config_damage, stage_directory


def verify(folder: Path) -> tuple[list[str], int]:
    """Re-hash a run: (what is damaged, a line each; how many stages were looked at). Raises UserError for a damaged journal."""
    path = folder / "journal.jsonl"
    state = fold(read_events(path))
    damage = [] if ends_whole(path) else [f"{path}: the last line is torn"]
    if config := find_config_damage(folder, state):
        damage.append(f"{folder / 'config.yaml'}: {config}")
    done = [(r, name, row.committed) for r, name, row in state.stages() if row.state == "done" and row.committed]
    for round_number, name, committed in done:
        final = folder / stage_directory(round_number) / name
        found = artifacts.find_damage(final)
        manifest = final / artifacts.MANIFEST
        if not found and hashlib.sha256(manifest.read_bytes()).hexdigest() != committed.manifest:
            found = [f"{manifest}: is not what was committed"]
        damage += found
    return damage, len(done)


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
