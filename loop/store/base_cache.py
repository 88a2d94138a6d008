"""The tiny base is trained once and kept between runs, in `~/.cache/loop` or `LOOP_CACHE`, under the key of its recipe.

A kept base is a committed directory as in a run. No journal vouches for it, so a copy of it is hashed before a run uses it.
Must never import torch, nor Ray.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs.errors import LoopError
from loop.store import artifacts
from loop.store.lock import is_running


def cache_folder() -> Path:
    """Where things are kept between runs."""
    return Path(os.environ.get("LOOP_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "loop")).expanduser()


class BaseCache:
    """The place of one base in the cache. `folder`: a whole base, or nothing, or one that was damaged since."""

    def __init__(self, key: str):
        self.key, self.folder = key, cache_folder() / f"base-{key[:16]}"

    def copy_to(self, payload: Path) -> tuple[dict[str, Any] | None, list[str]]:
        """Fill an empty payload directory. Returns (the base's metrics, []); (None, []) where none is kept; (None, what is damaged).

        A damaged base is removed, so that the one that is made now can take its place.
        """
        if not self.folder.exists():
            return None, []
        try:
            shutil.copytree(self.folder, payload, symlinks=True, dirs_exist_ok=True)
            damage = [line.replace(str(payload), str(self.folder)) for line in artifacts.find_damage(payload)]
        except OSError as error:
            if not (damage := artifacts.find_damage(self.folder)):  # then it is the run's disk that fails
                raise LoopError(f"the kept base cannot be copied into the run: {error}") from None
        found = None if damage else artifacts.find_committed(payload, self.key)
        if found is None:  # damaged, or of another version of loop
            for path in (self.folder, payload):
                shutil.rmtree(path, ignore_errors=True)
            payload.mkdir()
            return None, damage
        (payload / artifacts.MANIFEST).unlink()
        return found.metrics, []

    def keep(self, base: Path) -> None:
        """Keep a copy of a committed base. Half of one that a killed process has left is removed."""
        for left in self.folder.parent.glob(f"{self.folder.name}.*"):
            if not is_running(left.suffix[1:]):
                shutil.rmtree(left, ignore_errors=True)
        copy = self.folder.with_name(f"{self.folder.name}.{os.getpid()}")
        with suppress(OSError):  # a cache that cannot be written only costs the next run its minute
            shutil.copytree(base, copy)
            if not artifacts.find_damage(copy):
                copy.rename(self.folder)
        shutil.rmtree(copy, ignore_errors=True)
