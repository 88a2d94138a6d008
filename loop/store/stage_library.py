"""The committed stages of several runs by key, so that a run copies what another one has made by the same recipe.

A key covers everything that a stage is made from, the digests of its inputs included. So a stage with an equal key holds what this run
would make, and the stages after it have equal keys too. Invariant: a stage is taken only if the journal of its run says that it is done,
and only if the copy has the hashes that this journal vouches for. The source is never changed, and copies share no file with it.

Must never import torch or Ray.
"""

from collections.abc import Iterable
from pathlib import Path

from loop.store import artifacts
from loop.store.artifacts import Artifact
from loop.store.journal import fold, read_events
from loop.store.layout import RunFolder


class StageLibrary:
    """What some runs have committed. A directory that was removed since is not there; nothing is cached but where to look."""

    def __init__(self, runs: Iterable[RunFolder] = ()):
        """Read the journals of the runs. Raises UserError where one is damaged."""
        self._places: dict[str, dict[Path, str]] = {}
        for run in runs:
            for round_number, name, row in fold(read_events(run.journal)).stages():
                if row.state == "done" and row.committed and row.committed.key and row.committed.manifest:
                    self._enter(row.committed.key, run.stage(name, round_number), row.committed.manifest)

    def add(self, artifact: Artifact) -> None:
        """Enter a stage that was committed and journalled just now."""
        self._enter(artifact.key, artifact.path, artifact.manifest_hash)

    def copy_to(self, payload: Path, key: str) -> tuple[Artifact | None, list[str]]:
        """Fill an empty payload directory with the stage of this key. Returns the artifact that was copied, and what is damaged.

        A damaged stage is left out and named; another run may have a whole one. Raises LoopError where the run's disk fails.
        """
        damage: list[str] = []
        for path, manifest in self._places.get(key, {}).items():
            if path.exists():
                found, wrong = artifacts.copy_committed(path, payload, key, manifest)
                damage += wrong
                if found:
                    return found, damage
        return None, damage

    def _enter(self, key: str, path: Path, manifest: str) -> None:
        self._places.setdefault(key, {})[path] = manifest
