"""What `data.source` names: the embedded world, files, data sets of the hub, or user functions.

The checks here are cheap and import no ML library, so they run before anything is started.
"""

import difflib
import hashlib
import os
from pathlib import Path
from typing import Any

from configs import user_functions
from configs.errors import UserError

FILE_KINDS = {"jsonl": "json", "json": "json", "parquet": "parquet", "csv": "csv"}
"""A part of the file's name -> the loader of `datasets` that reads such a file."""
PATTERN = frozenset("*?[")
SAVED_DATASET = {"dataset_info.json": "", "dataset_dict.json": "['train']"}
"""A file that `save_to_disk` writes -> how to select the part that holds the rows."""


def source_kind(source: str) -> str:
    """`function`, `file` or `hub`. A name that could be a function's is a file's if there is such a file."""
    if user_functions.is_function(source) and not os.path.exists(source):
        return "function"
    return "file" if is_file_source(source) else "hub"


def is_file_source(source: str) -> bool:
    """Whether a source is meant as a file. Otherwise it is the name of a data set of the hub."""
    looks_like_path = source.startswith(("/", "./", "../", "~")) or source.count("/") > 1
    return looks_like_path or os.path.exists(source) or file_kind(source) is not None


def file_kind(source: str) -> str | None:
    """The kind of a file (FILE_KINDS) by its name: "pairs.jsonl.gz" is jsonl. None if it is none of them."""
    return next((kind for kind in FILE_KINDS if f".{kind}" in os.path.basename(source)), None)


def check_sources(given: Any, where: str) -> None:
    """Raises UserError for the first source that cannot be used. `given` is `data.source`, which the schema may not have checked yet."""
    sources = given if isinstance(given, list) else [given]
    if given == "embedded" or not all(isinstance(source, str) for source in sources):
        return
    if not sources:
        raise UserError("data.source names nothing", where, "give one or more files, or a data set of the hub")
    if "embedded" in sources:
        raise UserError("the embedded world cannot be mixed with other data", where, "leave `embedded` out of data.source")
    kinds = [source_kind(source) for source in sources]
    for source, kind in zip(sources, kinds, strict=True):
        if kind == "function":
            user_functions.check(source, where)
        elif "file" in kinds:  # hub and files cannot be mixed, so a name beside files is a misspelt file
            _check_file(source, where)


def hash_sources(source: str | list[str]) -> dict[str, str]:
    """SHA-256 of each source that is a file, and of the file of each function, by the name that was given. Other sources have none."""
    hashes = {}
    for name in source if isinstance(source, list) else [source]:
        if name != "embedded" and os.path.isfile(name):
            with open(name, "rb") as file:
                hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
        elif source_kind(name) == "function":
            hashes[name] = user_functions.find_hash(name)
    return hashes


def check_labels(path: Any, where: str) -> None:
    """Raises UserError if `labeler.path` of round 0 cannot hold labels. A file that does not exist yet is fine."""
    if isinstance(path, str) and os.path.isdir(path.replace("{round}", "0")):
        raise UserError(f"labeler.path is a folder: {path}", where, f"name a file in it: labeler.path='{path}/round-{{round}}.jsonl'")


def _check_file(source: str, where: str) -> None:
    if os.path.isdir(source):
        raise UserError(f"the data is a folder: {source}", where, _how_to_read_folder(Path(source)))
    if not os.path.exists(source):
        if PATTERN & set(source):
            found = sorted(str(path) for path in Path().glob(source)) if not os.path.isabs(source) else []
            example = ", ".join(found[:3]) or "a.jsonl, b.jsonl"
            raise UserError(f"data.source is no pattern: {source}", where, f"name the files: data='[{example}]'")
        folder = Path(source).parent
        names = os.listdir(folder) if folder.is_dir() else []
        near = difflib.get_close_matches(Path(source).name, names, n=1)
        hint = f", did you mean {str(folder / near[0])!r}?" if near else ""
        home = "; ~ means your home only at the beginning of a word in the shell" if source.startswith("~") else ""
        raise UserError(f"the data file does not exist: {source}{hint}", where, f"check the path, from {os.getcwd()}{home}")
    if file_kind(source) is None:
        kinds = ", ".join(f".{kind}" for kind in FILE_KINDS)
        raise UserError(f"unknown kind of data file: {source}", where, f"use a file whose name ends with one of {kinds}, or with .jsonl.gz")
    if not os.access(source, os.R_OK):
        raise UserError(f"the data file may not be read: {source}", where, "change its permissions")
    if os.path.isfile(source) and not os.path.getsize(source):
        raise UserError(f"the data set is empty: {source}", where, "give data with prompt, chosen and rejected")


def _how_to_read_folder(folder: Path) -> str:
    for marker, part in SAVED_DATASET.items():
        if (folder / marker).exists():
            write = f"datasets.load_from_disk({str(folder)!r}){part}.to_json('pairs.jsonl')"
            return f"save_to_disk wrote it; write the rows as a file in Python: {write}"
    files = sorted(str(path) for path in folder.iterdir() if file_kind(path.name) and path.is_file())
    return f"name its files: data='[{', '.join(files[:3])}]'" if files else "give a file of pairs, for example pairs.jsonl"
