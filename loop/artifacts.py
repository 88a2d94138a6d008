"""Directories that are complete or absent, and the hashes that tell one from another.

Invariant: a directory that contains `manifest.json` at its final place is complete and was never changed since. A stage
fills a work directory; `commit` hashes and fsyncs the payload, writes the manifest last, and renames. A crash before the
rename leaves only the work directory, which the next attempt empties; after it, a committed stage that the journal does not yet name.

    key     hash of the recipe: stage, version, the config it reads, seed, round, digests of the inputs
    digest  hash of the payload: names and bytes of every file but the manifest
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """A committed stage."""

    path: Path
    key: str
    digest: str
    metrics: dict[str, Any]
    seconds: float


def hash_json(value: Any) -> str:
    """SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def find_committed(path: Path, key: str) -> Artifact | None:
    """The artifact at `path` if it was made by the recipe `key`, else None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    if manifest.get("key") != key or manifest.get("schema") != SCHEMA_VERSION:
        return None
    return Artifact(path, key, manifest["digest"], manifest["metrics"], manifest["seconds"])


def begin(work: Path) -> Path:
    """An empty work directory."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return work


def commit(work: Path, final: Path, key: str, metrics: dict[str, Any], seconds: float) -> Artifact:
    """Make a filled work directory the artifact at `final`. An older artifact there, of another recipe, is replaced."""
    files = {str(file.relative_to(work)): _hash_file(file) for file in sorted(work.rglob("*")) if file.is_file()}
    digest = hash_json(files)
    manifest = {
        "schema": SCHEMA_VERSION,
        "key": key,
        "digest": digest,
        "files": files,
        "metrics": metrics,
        "seconds": round(seconds, 3),
    }
    _write_synced(work / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    _sync_directory(work)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        replaced = work.with_name(work.name + ".replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
        work.rename(final)
        shutil.rmtree(replaced)
    else:
        work.rename(final)
    _sync_directory(final.parent)
    return Artifact(final, key, digest, metrics, round(seconds, 3))


def _hash_file(path: Path) -> str:
    """Hash a payload file, and make sure that it is on disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
