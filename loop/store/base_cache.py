"""The tiny base is trained once and cached between runs, in `~/.cache/loop` or `LOOP_CACHE`, under the key of its recipe.

A cached base is a committed directory as in a run. No journal vouches for it, so a run copies it and verifies the hashes of the
copy before it uses it. Must never import torch or Ray.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs.cache import cache_folder
from loop.store import artifacts
from loop.store.lock import is_running


class BaseCache:
    """The place of one base in the cache. There may be no base in `folder`, or a damaged one."""

    def __init__(self, key: str):
        self.key, self.folder = key, cache_folder() / f"base-{key[:16]}"

    def copy_to(self, payload: Path) -> tuple[dict[str, Any] | None, list[str]]:
        """Copy the base into an empty payload directory. Returns its metrics, None where there is no whole base, and what is damaged.

        A damaged base is removed, so that a new one can take its place. Raises LoopError where the run's disk fails.
        """
        if not self.folder.exists():
            return None, []
        found, damage = artifacts.copy_committed(self.folder, payload, self.key)
        if found is None:  # damaged, or written by another version of loop
            shutil.rmtree(self.folder, ignore_errors=True)
        return found.metrics if found else None, damage

    def keep(self, base: Path) -> None:
        """Keep a copy of a committed base, unless there is one. Partial copies by processes that died are removed."""
        if self.folder.exists():
            return
        for abandoned in self.folder.parent.glob(f"{self.folder.name}.*"):
            if not is_running(abandoned.suffix[1:]):
                shutil.rmtree(abandoned, ignore_errors=True)
        copy = self.folder.with_name(f"{self.folder.name}.{os.getpid()}")
        with suppress(OSError):  # without the cache, the next run only has to train the base again
            shutil.copytree(base, copy)
            if not artifacts.find_damage(copy):
                copy.rename(self.folder)
        shutil.rmtree(copy, ignore_errors=True)
