"""Committed stages: directories that are complete or absent, and the hashes that identify them.

Invariant: a directory that contains `manifest.json` at its final place is complete and has not been changed since. A stage fills
the payload directory of its own attempt. `commit` hashes the payload, syncs it to disk, writes the manifest last, and renames the
directory. A crash before the rename leaves only the stage's work directory, and the next attempt continues from its checkpoints if
the key is equal. A crash after the rename leaves a committed stage that the journal does not name yet. A worker that outlives its
attempt can do no harm, because its payload directory is gone.

    key     hash of the recipe: stage, version, the settings that it reads, seed, round, digests of the inputs
    digest  hash of the payload: names and bytes of every file except the manifest, without paths on this machine
    check   hash of the rest of the manifest, so that an edited manifest is found where no journal vouches for it
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.errors import LoopError, UserError
from loop.store.layout import MANIFEST, StageWork

SCHEMA_VERSION = 2
LOCATIONS = {"adapter_config.json": "base_model_name_or_path"}
"""Files that name a path on this machine -> the field that does. The field is not part of the digest, or equal runs in two folders would
differ. The manifest has the hash without it under `placeless`, and the hash of all bytes under `files` as for every other file."""


@dataclass(frozen=True)
class Artifact:
    """A committed stage: its directory, and what the manifest says about it."""

    path: Path
    key: str
    digest: str
    metrics: dict[str, Any]
    seconds: float

    @property
    def manifest_hash(self) -> str:
        """SHA-256 of the manifest's bytes. The journal records it."""
        return hash_file(self.path / MANIFEST)


def hash_json(value: Any) -> str:
    """SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def find_committed(path: Path, key: str) -> Artifact | None:
    """The artifact at `path` if it was made by the recipe with this key, else None. Raises UserError for one of a newer version.

    A manifest may be damaged in any way; `find_damage` says how.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        if manifest["schema"] > SCHEMA_VERSION:
            raise UserError(f"a newer version of loop wrote this (schema {manifest['schema']})", str(path), "use that version of loop")
        if manifest["key"] != key or manifest["schema"] != SCHEMA_VERSION:
            return None
        return Artifact(path, key, manifest["digest"], manifest["metrics"], manifest["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_damage(path: Path, recorded: str | None = None) -> list[str]:
    """What is damaged in a committed directory, one text for each. recorded: the manifest's hash, where the journal knows it."""
    if path.is_symlink():
        return [f"{path}: is a symbolic link"]
    if not path.is_dir():
        return [f"{path}: {'is not a directory' if path.exists() else 'is missing'}"]
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
    """An empty payload directory in a stage's work directory. Work that belongs to another recipe is removed."""
    paths = StageWork(work)
    if not paths.key.is_file() or paths.key.read_text() != key:
        shutil.rmtree(work, ignore_errors=True)
    for old in paths.payloads():
        shutil.rmtree(old, ignore_errors=True)
    payload = paths.payload(secrets.token_hex(4))
    payload.mkdir(parents=True)
    paths.key.write_text(key)
    return payload


def commit(payload: Path, final: Path, key: str, metrics: dict[str, Any], seconds: float) -> Artifact:
    """Turn a filled payload directory into the artifact at `final`. An older artifact of another recipe is replaced.

    Raises LoopError where the payload holds anything that is not a file, because that could not be verified later.
    """
    names, odd = _contents(payload)
    if odd:
        found = ", ".join(f"{payload / name} {why}" for name, why in sorted(odd.items()))
        raise LoopError(f"the output of a stage holds something that is not a file: {found}")
    files = {name: hash_file(payload / name) for name in sorted(names)}
    sync_tree(payload)
    placeless = _placeless(payload, files)
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
    manifest["check"] = hash_json(json.loads(json.dumps(manifest)))  # in the form in which it is read back
    write_synced(payload / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    sync(payload)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        replaced = payload.with_name(payload.name + ".replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
        payload.rename(final)
        shutil.rmtree(replaced)
    else:
        payload.rename(final)
    sync(final.parent)
    return Artifact(final, key, digest, metrics, round(seconds, 3))


def copy_committed(source: Path, payload: Path, key: str, recorded: str | None = None) -> tuple[Artifact | None, list[str]]:
    """Fill an empty payload directory from a committed one elsewhere. Returns the artifact at `source`, and what is damaged there.

    The hashes of the copy are checked, and not those of the source, so what is used is what was checked. Where there is damage or
    another recipe, there is no artifact, and the payload directory is empty again. recorded: the manifest's hash, where a journal knows
    it. Raises LoopError where the source is whole, because then it is the disk of the copy that fails.
    """
    try:
        shutil.copytree(source, payload, symlinks=True, dirs_exist_ok=True)
        damage = [line.replace(str(payload), str(source)) for line in find_damage(payload, recorded)]
    except OSError as error:
        if not (damage := find_damage(source, recorded)):
            raise LoopError(f"{source} cannot be copied into the run: {error}") from None
    found = None if damage else find_committed(payload, key)
    if found is None:
        shutil.rmtree(payload, ignore_errors=True)
        payload.mkdir()
        return None, damage
    (payload / MANIFEST).unlink()
    return replace(found, path=source), []


def digest_of(payload: Path) -> str:
    """The digest that a filled payload directory will have when it is committed."""
    files = {name: hash_file(payload / name) for name in _contents(payload)[0]}
    return hash_json(files | _placeless(payload, files))


def _placeless(payload: Path, names: Iterable[str]) -> dict[str, str]:
    """The files of LOCATIONS, each with the hash of its content without the path."""
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
    """The files under a directory by relative name, and everything that cannot be hashed as a file, with the reason."""
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
                odd[relative] = "is not a plain file"
            elif not any(found.iterdir()):
                odd[relative] = "is an empty directory"
    return files, odd


def write_synced(path: Path, text: str) -> None:
    """Replace a file at once and sync it: after a crash it has the whole text, or what was there before."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def sync_tree(path: Path) -> None:
    """Sync all files and directories under a directory, and itself, to disk."""
    for folder, _, names in os.walk(path):
        for name in (*names, ""):
            sync(Path(folder, name))


def sync(path: Path) -> None:
    """Sync one file or directory to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
