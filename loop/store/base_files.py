"""Which base model a run uses: the `base` stage records it in `base.json`, and later starts compare the model with the record.

    embedded       no record, because the base is in the stage's own directory
    a folder       "files": SHA-256 of every file that `from_pretrained` may read, since anybody can replace them
    a named base   the same of its folder in the cache. If the folder is gone, a worker makes it again before it loads it
    from the hub   "commit": later loads ask for exactly this commit

The record is part of the stage's digest, so the keys of all later stages depend on the weights. Must never import torch or Ray.
"""

import json
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.schema import BaseConfig, RunConfig
from loop.store.artifacts import digest_of, hash_json
from loop.store.journal import Event
from loop.store.known_hashes import KnownHashes
from policies.named_bases import NAMED_BASES, source_of

RECORD = "base.json"
READ = (
    "*.json",
    "*.safetensors",
    "*.bin",
    "*.txt",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "*.py",
)
"""What `from_pretrained` may read in a folder: weights, configs, tokenizer, templates, the model's own code."""
ANOTHER_BASE = "the base model is not the one that the run started with"
TO_DO = "restore the files that the run started with, or start a new run with the present ones (--fork NEW)"


def hash_files(folder: Path, thorough: bool = False) -> dict[str, str]:
    """SHA-256 of the files that are read from a model's folder, by name. thorough: do not use remembered hashes."""
    known = KnownHashes()
    files = sorted({path for pattern in READ for path in folder.glob(pattern) if path.is_file()})
    found = {str(path.relative_to(folder)): (known.hash_again if thorough else known.hash)(path) for path in files}
    known.save()
    return found


def read_record(base: Path) -> dict[str, Any]:
    """The record in the base stage's directory; empty for the embedded base. Raises UserError where it is damaged."""
    path = base / RECORD
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError:
        to_do = "delete the directory that holds it, and the same command makes it again"
        raise UserError("the record of the base model cannot be read", str(path), to_do) from None


def pinned(config: BaseConfig, base: Path) -> tuple[str, BaseConfig]:
    """What `from_pretrained` is given for the base of a run, and its settings, with the commit that the run has recorded.

    base: the directory of the base stage.
    """
    commit = read_record(base).get("commit")
    source = str(base) if config.model == "embedded" else source_of(config.model)
    return source, config.model_copy(update={"revision": commit}) if commit else config


def find_changes(base: Path, thorough: bool = False) -> list[str]:
    """How the folder of the model differs from the record, one text for each file."""
    record = read_record(base)
    before: dict[str, str] | None = record.get("files")
    if before is None:
        return []
    folder = Path(source_of(record["model"]))
    if not folder.is_dir():
        if record["model"] in NAMED_BASES:
            return []
        return [f"{folder.absolute()}: the base model does not exist"]
    try:
        now = hash_files(folder, thorough)
    except OSError as error:
        return [f"{error.filename}: cannot be read ({error.strerror})"]
    changes = [f"{folder / name}: is missing" for name in sorted(before.keys() - now.keys())]
    changes += [f"{folder / name}: is new" for name in sorted(now.keys() - before.keys())]
    return changes + [f"{folder / name}: was changed" for name in sorted(now.keys() & before.keys()) if now[name] != before[name]]


def check_unchanged(base: Path) -> None:
    """Raises UserError naming the file where the user's model folder differs from the record."""
    if changes := find_changes(base):
        more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
        model = read_record(base)["model"]
        to_do = f"delete {source_of(model)}, and the same command makes it again" if model in NAMED_BASES else TO_DO
        raise UserError(f"{ANOTHER_BASE}: {changes[0]}{more}", model, to_do)


def check_same_base(payload: Path, key: str, before: Event | None) -> None:
    """Raises UserError where the base stage is made again and records another model than before.

    Otherwise all later stages would silently be made again too. before: the journal's last line about the stage.
    """
    record = read_record(payload)
    if record and before and before.key == key and before.digest != digest_of(payload):
        commit = f": commit {record['commit']}, not {(before.metrics or {}).get('commit')}" if "commit" in record else ""
        raise UserError(f"{ANOTHER_BASE}{commit}", record["model"], TO_DO)


def fingerprint(files: dict[str, str] | None) -> str:
    """One hash for all files of a model folder; empty where there is no folder."""
    return "" if files is None else hash_json(files)


def fingerprint_now(config: RunConfig) -> str:
    """The fingerprint of the model folder that a config names, as it is now; empty for the embedded base and for one from the hub."""
    folder = Path(source_of(config.base.model))
    return fingerprint(hash_files(folder) if config.base.model != "embedded" and folder.is_dir() else None)
