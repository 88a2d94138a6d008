"""Opens files that may be packed, and tells by its name what a file is: "Pairs.JSONL.xz" is JSON lines, packed by xz."""

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from configs.errors import UserError

KINDS = ("jsonl", "json", "parquet", "csv", "arrow")
"""Kinds of files of rows, by the ending of the name."""
KIND_OF_ENDING = {kind: kind for kind in KINDS} | {"ndjson": "jsonl"}


def _open_zstandard(path: Path) -> Any:
    import pyarrow  # which `datasets` needs; Python itself reads zstandard from 3.14 on

    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))  # which by itself cannot tell lines


PACKERS: dict[str, Callable[[Path], Any]] = {
    "gz": gzip.GzipFile,
    "xz": lzma.LZMAFile,
    "bz2": bz2.BZ2File,
    "zst": _open_zstandard,
}
"""The ending of a packed file's name -> how it is opened."""


def file_kind(name: str) -> str | None:
    """The kind of a file of rows by its name, without regard to upper case; None if it is none of KINDS."""
    return KIND_OF_ENDING.get(_endings(name)[0])


def packer(name: str) -> str | None:
    """What a file is packed by, by its name; None if it is not packed."""
    return _endings(name)[1]


def without_endings(name: str) -> str:
    """The name of a file without what says its kind and how it is packed."""
    kind, packed = _endings(name)
    for ending in (packed, kind):
        if ending and name.lower().endswith(f".{ending}"):
            name = name[: -len(ending) - 1]
    return name


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, unpacked. Raises UserError if it cannot be opened or read to its end."""
    packed = packer(path.name)
    try:
        with PACKERS[packed](path) if packed else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"the file cannot be read: {why}", str(path), "check that it is a whole file that you may read") from None


def _endings(name: str) -> tuple[str, str | None]:
    """The last ending of a name before the packer's, and the packer's. A name like pairs.jsonl-00000-of-00002 has its ending inside."""
    parts = os.path.basename(name).lower().split(".")
    packed = parts.pop() if len(parts) > 1 and parts[-1] in PACKERS else None
    ending = parts[-1].partition("-")[0] if len(parts) > 1 else ""
    return ending, packed
