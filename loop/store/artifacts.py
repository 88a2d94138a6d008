"""Directories that are complete or absent, and the hashes that tell one from another.

Invariant: a directory that contains `manifest.json` at its final place is complete and was never changed since. A stage
fills a payload directory of its own attempt; `commit` hashes and fsyncs the payload, writes the manifest last, and renames. A crash
before the rename leaves only the stage's work directory, whose checkpoints the next attempt takes up if the key is equal; after
it, a committed stage that the journal does not yet name.

    work/round-000-policy/key              whose work this is
    work/round-000-policy/payload-<n>/     what the attempt makes; a late worker of a dead attempt writes into its own, or nowhere
    work/round-000-policy/checkpoints/     see policies/checkpoints.py

    key     hash of the recipe: stage, version, the config it reads, seed, round, digests of the inputs
    digest  hash of the payload: names and bytes of every file but the manifest, without what only tells where on this machine it lies
    check   in the manifest: hash of all the rest of it, so that a changed one is found where no journal vouches for it
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import LoopError, UserError

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
LOCATIONS = {"adapter_config.json": "base_model_name_or_path"}
"""Files that name a place on this machine -> the field that does. It is not part of the digest, or equal runs in two folders would differ.
Their hash without it is in the manifest under `placeless`; that of all their bytes is under `files` as for every other file."""


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
        return hash_file(self.path / MANIFEST)


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


def find_damage(path: Path, recorded: str | None = None) -> list[str]:
    """What does not fit in a committed directory, a line each. recorded: the manifest's hash, where the journal knows it."""
    if path.is_symlink():
        return [f"{path}: is a symbolic link"]
    if not path.is_dir():
        return [f"{path}: {'is no directory' if path.exists() else 'is missing'}"]
    try:
        text = (path / MANIFEST).read_bytes()
        manifest = json.loads(text)
        schema, files = manifest["schema"], manifest["files"]
        whole = schema < 2 or manifest.pop("check") == hash_json(manifest)
        whole = whole and manifest["digest"] == hash_json(files | manifest.get("placeless", {}))
    except OSError as error:
        return [f"{path / MANIFEST}: cannot be read ({error.strerror})"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{path / MANIFEST}: cannot be read ({type(error).__name__})"]
    if not whole or recorded not in (None, hashlib.sha256(text).hexdigest()):
        return [f"{path / MANIFEST}: is not what was committed"]
    there, odd = _contents(path)
    damage = [f"{path / name}: {why}" for name, why in sorted(odd.items())]
    damage += [f"{path / name}: is missing" for name in sorted(files.keys() - there - odd.keys())]
    damage += [f"{path / name}: does not belong here" for name in sorted(there - files.keys() - {MANIFEST})]
    for name in sorted(there & files.keys()):
        try:
            if hash_file(path / name) != files[name]:
                damage.append(f"{path / name}: was changed")
        except OSError as error:
            damage.append(f"{path / name}: cannot be read ({error.strerror})")
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
    """Make a filled payload directory the artifact at `final`. An older artifact there, of another recipe, is replaced.

    Raises LoopError where the payload holds something else than files, which could not be checked later.
    """
    names, odd = _contents(work)
    if odd:
        raise LoopError(f"a stage left what cannot be kept: {', '.join(f'{work / name} {why}' for name, why in sorted(odd.items()))}")
    files = {name: hash_file(work / name) for name in sorted(names)}
    sync_tree(work)
    placeless = _placeless(work, files)
    digest = hash_json(files | placeless)
    manifest: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "key": key,
        "digest": digest,
        "files": files,
        "placeless": placeless,
        "metrics": metrics,
        "seconds": round(seconds, 3),
    }
    manifest["check"] = hash_json(json.loads(json.dumps(manifest)))  # as it is read back: JSON knows no tuples and no numbers as keys
    write_synced(work / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    _sync(work)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        replaced = work.with_name(work.name + ".replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
        work.rename(final)
        shutil.rmtree(replaced)
    else:
        work.rename(final)
    _sync(final.parent)
    return Artifact(final, key, digest, metrics, round(seconds, 3))


def digest_of(payload: Path) -> str:
    """The digest that a filled payload directory is going to have."""
    files = {name: hash_file(payload / name) for name in _contents(payload)[0]}
    return hash_json(files | _placeless(payload, files))


def _placeless(payload: Path, names: Iterable[str]) -> dict[str, str]:
    """The files of LOCATIONS, each with the hash that it would have if it named no place."""
    hashes = {}
    for name in names:
        if field := LOCATIONS.get(Path(name).name):
            content = json.loads((payload / name).read_text(encoding="utf-8"))
            hashes[name] = hash_json({key: value for key, value in content.items() if key != field})
    return hashes


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _contents(path: Path) -> tuple[set[str], dict[str, str]]:
    """The files under a directory, by relative name; and what is neither a file nor a directory with something in it, with the reason."""
    files, odd = set(), {}
    for folder, directories, names in os.walk(path):
        here = Path(folder)
        for name in (*directories, *names):
            found, relative = here / name, str((here / name).relative_to(path))
            if found.is_symlink():
                odd[relative] = "is a symbolic link"
            elif found.is_file():
                files.add(relative)
            elif not found.is_dir():
                odd[relative] = "is no plain file"
            elif not any(found.iterdir()):
                odd[relative] = "is an empty directory"
    return files, odd


def write_synced(path: Path, text: str) -> None:
    """The whole text is at `path`, on disk, or what was there before."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def sync_tree(path: Path) -> None:
    """All files and directories under a directory, and itself, are on disk."""
    for folder, _, names in os.walk(path):
        for name in (*names, ""):
            _sync(Path(folder, name))


def _sync(path: Path) -> None:
    """A file or directory is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
