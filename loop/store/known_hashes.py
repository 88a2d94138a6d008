"""Remembers the SHA-256 of a user's large files between runs, so that weights are hashed once and not at every start.

A file counts as unchanged while its path, size, inode and both of its times stay the same. The hash of a file that was written a
moment ago is not remembered, because a second write could leave the same times. The hashes are kept in a small file in the cache;
without it everything is hashed again. Must never import torch or Ray.
"""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs.cache import cache_folder
from loop.store.artifacts import hash_file

SETTLED_SECONDS = 2.0
"""A file must be older than this for its hash to be remembered: file systems count time in steps of up to this size."""


class KnownHashes:
    """Hashes by absolute path. New hashes are written to the cache when `save` is called."""

    def __init__(self) -> None:
        self.path = cache_folder() / "hashes.json"
        self._known = _read(self.path)
        self._new: dict[str, list[Any]] = {}

    def hash(self, file: Path) -> str:
        """SHA-256 of the file; remembered where the file is unchanged."""
        name, before = str(file.resolve()), _marks(file)
        known = self._known.get(name)
        if known and known[:-1] == before:
            return known[-1]
        return self.hash_again(file)

    def hash_again(self, file: Path) -> str:
        """SHA-256 of the file as it is now, even where a hash is remembered."""
        name, now, before = str(file.resolve()), time.time(), _marks(file)
        digest = hash_file(file)
        settled = max(before[1:3]) / 1e9 < now - SETTLED_SECONDS
        if settled and _marks(file) == before:
            self._new[name] = [*before, digest]
        return digest

    def save(self) -> None:
        """Remember the new hashes. Where two processes save at once, one of them hashes its files again next time."""
        if self._new:
            self._known = _read(self.path) | self._new
            temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            with suppress(OSError):  # without the cache, the files are only hashed again
                self.path.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_text(json.dumps(self._known, indent=1), encoding="utf-8")
                temporary.replace(self.path)


def _marks(file: Path) -> list[int]:
    """What changes when a file is changed or replaced: size, time of its content, time of its entry, inode."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        found = json.loads(path.read_bytes())
        return {name: row for name, row in found.items() if isinstance(row, list) and len(row) == 5}
    except (OSError, ValueError, AttributeError):
        return {}
