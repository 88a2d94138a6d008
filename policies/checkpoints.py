"""The progress of a stage on disk: the newest state of its training, and the shards that it has finished.

    checkpoints/train/step-00000040/            complete or absent: filled under another name, fsynced, then renamed; one is kept
    checkpoints/<name>/00000128-00000256.json   a finished shard of sampling or labeling: the results of items 128 to 255

A trainer decides what to save. This file decides when and where, and makes sure that a save is complete. The folder belongs to one stage
key: the driver empties it when the stage has another key.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.errors import Stopped
from policies import parallel

MAX_COST = 0.02
"""The largest fraction of the time that saving may take. After a slow save, the next one comes later."""


class Checkpoints:
    """The progress of one stage. Without a folder, nothing is saved and nothing is found."""

    def __init__(self, folder: Path | None = None, seconds: float = 30.0, stop: Path | None = None):
        """seconds: time between two saves; 0 saves after every step. stop: once this file exists, the stage saves and raises Stopped."""
        self.folder, self.stop = folder, stop
        self._pause, self._saved_at = seconds, time.monotonic()
        self._seconds = seconds

    # -- training -----------------------------------------------------------------------------------------------------

    def due(self) -> bool:
        """Tell whether to save after this step. All workers get the same answer."""
        if self.folder is None:
            return False
        return parallel.agree(time.monotonic() - self._saved_at >= self._pause or self._stop_requested())

    @contextmanager
    def saving(self, step: int) -> Iterator[Path]:
        """Yield a folder to save into, on all workers. `newest` finds it after the block. Raises Stopped if a stop was requested."""
        assert self.folder is not None
        started = time.monotonic()
        final = self.folder / "train" / f"step-{step:08d}"
        work = final.with_name(f"saving-{step:08d}-{parallel.agree_number(os.getpid())}")
        work.mkdir(parents=True, exist_ok=True)
        yield work
        parallel.barrier()
        if parallel.is_main():
            for path in [*work.rglob("*"), work]:
                _sync(path)
            try:
                work.rename(final)
            except OSError:
                if not final.exists():  # it exists if a late worker of a dead attempt has just saved the same step
                    raise
            _sync(final.parent)
            self._remove_all_but(final)
        self._saved_at = time.monotonic()
        self._pause = max(self._seconds, (self._saved_at - started) / MAX_COST) if self._seconds else 0.0
        if parallel.agree(self._stop_requested()):
            raise Stopped(f"stopped after step {step}")

    def newest(self) -> Path | None:
        """Return the folder of the last complete save, or None if there is none."""
        found = sorted((self.folder / "train").glob("step-*")) if self.folder else []
        return found[-1] if found else None

    # -- shards -------------------------------------------------------------------------------------------------------

    def in_shards(
        self,
        name: str,
        items: Sequence[Any],
        size: int,
        compute: Callable[[Sequence[Any]], list[Any]],
        on_shard: Callable[[int, list[Any]], None] = lambda done, results: None,
    ) -> list[Any]:
        """Call `compute` on `size` items at a time. All workers take shards from one queue, and every worker gets all results.

        A result is plain data, one for each item. Shards that an earlier attempt has finished are read from disk. Their names say which
        items they hold, so shards of another size are never mistaken for them. Raises Stopped if a stop was requested.
        """
        mine = []
        for shard in parallel.take_shards(-(-len(items) // size)):
            start, stop = shard * size, min((shard + 1) * size, len(items))
            results = self._shard(f"{name}/{start:08d}-{stop:08d}.json", items[start:stop], compute)
            mine.append((shard, results))
            on_shard(stop, results)
            if self._stop_requested():
                raise Stopped(f"stopped after item {stop} of {name}")
        return [result for _, results in sorted(parallel.gather(mine), key=lambda one: one[0]) for result in results]

    def _shard(self, name: str, items: Sequence[Any], compute: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
        if self.folder is None:
            return compute(items)
        path = self.folder / name
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if len(found) == len(items):
                return found
        except (OSError, ValueError):  # missing, or torn by a power cut, because shards are renamed into place but not fsynced
            pass
        results = compute(items)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(results), encoding="utf-8")
        temporary.replace(path)
        return results

    def _stop_requested(self) -> bool:
        return self.stop is not None and self.stop.exists()

    def _remove_all_but(self, kept: Path) -> None:
        for old in kept.parent.iterdir():
            if old != kept:
                gone = old.with_name(f"gone-{old.name}")  # so every folder called step-... is complete, even during the removal
                try:
                    old.rename(gone)
                except OSError:
                    gone = old
                shutil.rmtree(gone, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
