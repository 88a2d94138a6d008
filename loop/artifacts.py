"""Directories that are complete or absent, and the hashes that tell one from another.

Invariant: a directory that contains `manifest.json` at its final place is complete and was never changed since. A stage
fills a payload directory of its own attempt; `commit` hashes and fsyncs the payload, writes the manifest last, and renames. A crash
before the rename leaves only the stage's work directory, whose checkpoints the next attempt takes up if the key is equal; after
it, a committed stage that the journal does not yet name.

    work/round-000-policy/key              whose work this is
    work/round-000-policy/payload-<n>/     what the attempt makes; a late worker of a dead attempt writes into its own, or nowhere
    work/round-000-policy/checkpoints/     see policies/checkpoints.py

    key     hash of the recipe: stage, version, the config it reads, seed, round, digests of the inputs
    digest  hash of the payload: names and bytes of every file but the manifest
"""

import hashlib
import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UserError

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

    @property
    def manifest_hash(self) -> str:
        """SHA-256 of the manifest's bytes, which the journal records."""
        return _hash_file(self.path / MANIFEST)


def hash_json(value: Any) -> str:
    """SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def find_committed(path: Path, key: str) -> Artifact | None:
    """The artifact at `path` if it was made by the recipe `key`, else None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    if manifest.get("schema", 0) > SCHEMA_VERSION:
        raise UserError(f"a newer version of loop wrote this (schema {manifest['schema']})", str(path), "use that version of loop")
    if manifest.get("key") != key or manifest.get("schema") != SCHEMA_VERSION:
        return None
    return Artifact(path, key, manifest["digest"], manifest["metrics"], manifest["seconds"])


def find_damage(path: Path) -> list[str]:
    """What does not fit in a committed directory, a line each; the manifest itself is vouched for by the journal."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, str] = manifest["files"]
        damage = [] if hash_json(files) == manifest["digest"] else [f"{path / MANIFEST}: the digest is not that of its files"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{path / MANIFEST}: cannot be read ({type(error).__name__})"]
    there = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()} - {MANIFEST}
    damage += [f"{path / name}: is missing" for name in sorted(files.keys() - there)]
    damage += [f"{path / name}: does not belong here" for name in sorted(there - files.keys())]
    damage += [f"{path / name}: was changed" for name in sorted(there & files.keys()) if _hash_file(path / name) != files[name]]
    return damage


def begin(work: Path, key: str) -> Path:
    """An empty payload directory in a stage's work directory. What an attempt at another recipe left there is removed."""
    if not (work / "key").is_file() or (work / "key").read_text() != key:
        shutil.rmtree(work, ignore_errors=True)
    for old in work.glob("payload-*"):
        shutil.rmtree(old, ignore_errors=True)
    payload = work / f"payload-{secrets.token_hex(4)}"
    payload.mkdir(parents=True)
    (work / "key").write_text(key)
    return payload


def commit(work: Path, final: Path, key: str, metrics: dict[str, Any], seconds: float) -> Artifact:
    """Make a filled payload directory the artifact at `final`. An older artifact there, of another recipe, is replaced."""
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
    write_synced(work / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
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


def write_synced(path: Path, text: str) -> None:
    """The whole text is at `path`, on disk, or what was there before."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
