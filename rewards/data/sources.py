"""What `data.source` and `data.sources` name: the embedded world, files, folders, data sets of the hub, or user functions.

The checks here are cheap and import no ML library, so they run before anything is started.
"""

import difflib
import glob
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs import user_functions
from configs.data import DataConfig, SourceConfig
from configs.errors import UserError
from policies.base_folder import looks_like_a_path
from rewards.data.unpacking import KINDS, PACKERS, file_kind, packer, without_endings

PATTERN = frozenset("*?[")
SAVED_DATASET = ("dataset_info.json", "dataset_dict.json")
"""A folder that has one of these files was written by `save_to_disk`."""

SourceKind = Literal["function", "file", "folder", "hub"]


@dataclass(frozen=True)
class Source:
    """One source of a run. name: what its rows are called by. files: the files that are read, in order; none for other kinds."""

    name: str
    config: SourceConfig
    kind: SourceKind
    files: tuple[str, ...] = ()


def find_sources(config: DataConfig) -> list[Source]:
    """All sources of a config, in order, with their files. There is none for the embedded world. Raises UserError."""
    if config.source == "embedded":
        return []
    check_sources(config.source, "data.source")
    check_sources([source.path for source in config.sources], "data.sources", mixed=True)
    given = config.sources
    if config.source is not None:
        paths = [config.source] if isinstance(config.source, str) else config.source
        given = [SourceConfig(path=path, split=config.split) for path in paths]
    names = _names(given)
    return [_find(name, source) for name, source in zip(names, given, strict=True)]


def source_kind(path: str) -> SourceKind:
    """What a path means. A name that could be a function's is a file's if there is such a file."""
    if user_functions.is_function(path) and not os.path.exists(path):
        return "function"
    if os.path.isdir(path):
        return "folder"
    return "file" if is_file_source(path) else "hub"


def is_file_source(path: str) -> bool:
    """Whether a path is meant as a file. Otherwise it is the name of a data set of the hub."""
    return looks_like_a_path(path) or os.path.exists(path) or file_kind(path) is not None or bool(PATTERN & set(path))


def check_sources(given: Any, where: str, mixed: bool = False) -> None:
    """Raises UserError for the first path that cannot be used. `given` may not have been checked by the schema yet.

    mixed: data sets of the hub may stand beside files. Otherwise a name beside files is a misspelled file.
    """
    paths = given if isinstance(given, list) else [given]
    if given == "embedded" or not all(isinstance(path, str) for path in paths):
        return
    if not paths and not mixed:
        raise UserError("data.source names nothing", where, "give one or more files, or a data set of the hub")
    if "embedded" in paths:
        raise UserError("the embedded world cannot be mixed with other data", where, "leave `embedded` out of data.source")
    kinds = [source_kind(path) for path in paths]
    for path, kind in zip(paths, kinds, strict=True):
        if kind == "function":
            user_functions.check(path, where)
        elif kind in ("file", "folder") or ({"file", "folder"} & set(kinds) and not mixed):
            _check_path(path, where)


def check_given_sources(data: Any, where_source: str, where_sources: str) -> None:
    """`check_sources` for the `data` that a user wrote, which the schema has not checked yet."""
    values = data if isinstance(data, dict) else {}
    sources = values.get("sources")
    if isinstance(sources, list) and sources:
        check_sources([source.get("path") if isinstance(source, dict) else None for source in sources], where_sources, mixed=True)
    else:
        check_sources(values.get("source", "embedded"), where_source)


def hash_source(source: Source) -> dict[str, str]:
    """SHA-256 of each file that a source is read from, or of the file of a function, by its name. A data set of the hub has none."""
    if source.kind == "function":
        return {source.config.path: user_functions.find_hash(source.config.path)}
    hashes = {}
    for name in source.files:
        with open(name, "rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def check_labels(path: Any, where: str) -> None:
    """Raises UserError if `labeler.path` of round 0 cannot hold labels. A file that does not exist yet is fine."""
    if isinstance(path, str) and os.path.isdir(os.path.expanduser(path.replace("{round}", "0"))):
        raise UserError(f"labeler.path is a folder: {path}", where, f"name a file in it: labeler.path='{path}/round-{{round}}.jsonl'")


def _names(given: list[SourceConfig]) -> list[str]:
    """A name for each source. Files of the same name are told apart by their paths."""
    names = [source.name or _short_name(source.path) for source in given]
    names = [source.path if names.count(name) > 1 and not source.name else name for source, name in zip(given, names, strict=True)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two sources have the name {twice[0]!r}", "data.sources", "give each a name of its own: {path: ..., name: ...}")
    return names


def _short_name(path: str) -> str:
    kind = source_kind(path)
    if kind == "file" and not _is_pattern(path):
        return without_endings(os.path.basename(path))
    if kind == "function":
        return path.rpartition(":")[2]
    return os.path.basename(path.rstrip("/")) if kind == "folder" else path


def _find(name: str, config: SourceConfig) -> Source:
    path, kind = config.path, source_kind(config.path)
    files: list[str] = []
    if kind == "file":
        files = _matches(path) if _is_pattern(path) else [path]
    elif kind == "folder":
        files = sorted(str(file) for file in Path(path).rglob("*") if file.is_file())
    return Source(name, config, kind, tuple(files))


def _is_pattern(path: str) -> bool:
    return bool(PATTERN & set(path)) and not os.path.exists(path)


def _matches(pattern: str) -> list[str]:
    return sorted(found for found in glob.glob(pattern, recursive=True) if os.path.isfile(found))


def _check_path(path: str, where: str) -> None:
    if os.path.isdir(path):
        if not any((Path(path) / marker).exists() for marker in SAVED_DATASET):
            raise UserError(f"the data is a folder: {path}", where, _how_to_read_folder(Path(path)))
        return
    if "\0" not in path and _is_pattern(path):
        files = _matches(path)
        if not files:
            raise UserError(f"no file matches the pattern {path}", where, f"check the pattern, from {os.getcwd()}")
        for file in files:
            _check_file(file, where)
        return
    if not os.path.exists(path):
        folder = Path(path).parent
        names = os.listdir(folder) if folder.is_dir() else []
        near = difflib.get_close_matches(Path(path).name, names, n=1)
        hint = f", did you mean {str(folder / near[0])!r}?" if near else ""
        home = "; ~ means your home only at the beginning of a word in the shell" if path.startswith("~") else ""
        raise UserError(f"the data file does not exist: {path}{hint}", where, f"check the path, from {os.getcwd()}{home}")
    _check_file(path, where)


def _check_file(path: str, where: str) -> None:
    kind, packed = file_kind(path), packer(path)
    if kind is None:
        kinds, packers = ", ".join(f".{kind}" for kind in KINDS), ", ".join(f".{name}" for name in PACKERS)
        to_do = f"use a file whose name ends with one of {kinds}; {packers} after that are unpacked"
        raise UserError(f"unknown kind of data file: {path}", where, to_do)
    if packed and kind in ("parquet", "arrow"):
        raise UserError(f"a .{kind} file cannot be read while it is packed: {path}", where, "unpack it")
    if not os.access(path, os.R_OK):
        raise UserError(f"the data file may not be read: {path}", where, "change its permissions")
    if os.path.isfile(path) and not os.path.getsize(path):
        raise UserError(f"the data set is empty: {path}", where, "give data with prompt, chosen and rejected")


def _how_to_read_folder(folder: Path) -> str:
    files = sorted(str(path) for path in folder.iterdir() if file_kind(path.name) and path.is_file())
    return f"name its files: data='[{', '.join(files[:3])}]'" if files else "give a file of pairs, for example pairs.jsonl"
