"""Which base a run was made from: recorded by the `base` stage in `base.json`, and compared with what is there before it is used.

    embedded       no record: the base is a stage's own directory
    a folder       "files": SHA-256 of every file in it that `from_pretrained` may read, since anybody can replace them
    from the hub   "commit": later loads ask for exactly this one

The record is part of the stage's digest, so the keys of all later stages cover the weights. Must never import torch, nor Ray.
"""

import json
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.schema import RunConfig
from loop.store.artifacts import hash_json
from loop.store.known_hashes import KnownHashes

RECORD = "base.json"
READ = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model", "*.tiktoken", "*.jinja", "additional_chat_templates/*.jinja", "*.py")
"""What `from_pretrained` may read of a folder: weights, configs, tokenizer, templates, a model's own code."""
TO_DO = "put back the files that the run began with, or begin a new run with these (--fork NEW)"


def hash_files(folder: Path, thorough: bool = False) -> dict[str, str]:
    """SHA-256 by name of the files that are read from a model's folder. thorough: hash everything again, whatever is remembered."""
    known = KnownHashes()
    files = sorted({path for pattern in READ for path in folder.glob(pattern) if path.is_file()})
    found = {str(path.relative_to(folder)): (known.hash_again if thorough else known.hash)(path) for path in files}
    known.save()
    return found


def read_record(base: Path) -> dict[str, Any]:
    """What the base stage's directory says of a model of the user's; empty for the embedded one. Raises UserError if it is damaged."""
    path = base / RECORD
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError:
        to_do = "delete the directory that it is in: the same command makes it again"
        raise UserError("the record of the base model cannot be read", str(path), to_do) from None


def find_changes(base: Path, thorough: bool = False) -> list[str]:
    """What differs in the user's folder from what the base stage recorded, a line each."""
    record = read_record(base)
    before: dict[str, str] | None = record.get("files")
    if before is None:
        return []
    folder = Path(record["model"])
    if not folder.is_dir():
        return [f"{folder.absolute()}: the base model is not there"]
    try:
        now = hash_files(folder, thorough)
    except OSError as error:
        return [f"{error.filename}: cannot be read ({error.strerror})"]
    changes = [f"{folder / name}: is missing" for name in sorted(before.keys() - now.keys())]
    changes += [f"{folder / name}: is new" for name in sorted(now.keys() - before.keys())]
    return changes + [f"{folder / name}: was changed" for name in sorted(now.keys() & before.keys()) if now[name] != before[name]]


def check_unchanged(base: Path) -> None:
    """Raises UserError naming the file where the user's model is not the one that the base stage recorded."""
    if changes := find_changes(base):
        more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
        raise UserError(f"the base model is not the one that the run began with: {changes[0]}{more}", read_record(base)["model"], TO_DO)


def fingerprint(files: dict[str, str] | None) -> str:
    """One hash for all files of a folder; empty where there are none to compare."""
    return "" if files is None else hash_json(files)


def fingerprint_now(config: RunConfig) -> str:
    """Of the model folder that a config names, as it is now; empty for the embedded base and one from the hub."""
    folder = Path(config.base.model)
    return fingerprint(hash_files(folder) if config.base.model != "embedded" and folder.is_dir() else None)
