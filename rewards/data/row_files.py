"""Many records as a sequence, of which only the places in a file are in memory: 8 bytes a record. Imports no ML library."""

import os
import shutil
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from rewards.comparisons import from_line, to_line

Record = TypeVar("Record")


class RowFile(Sequence[Record], Generic[Record]):
    """Records that are added one by one, and read one by one. The file has no name, and is gone with this object.

    It is read by its own positions and never mapped, so that what was read does not count as memory of the process.
    """

    def __init__(self, kind: type[Record], folder: Path):
        self._kind = kind
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it lives as long as this object)
        weakref.finalize(self, self._file.close)
        self._ends = array("Q", [0])
        self._is_flushed = True

    def append(self, record: Record) -> None:
        """Add a record at the end."""
        line = to_line(record).encode()
        self._file.write(line)
        self._ends.append(self._ends[-1] + len(line))
        self._is_flushed = False

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        self._flush()
        begin, end = self._ends[number], self._ends[number + 1]
        return from_line(os.pread(self._file.fileno(), end - begin, begin), self._kind)

    def __iter__(self) -> Iterator[Record]:
        return (self[number] for number in range(len(self)))

    def write(self, path: Path) -> None:
        """Write all records into a file of JSON lines."""
        self._flush()
        with path.open("wb") as target:
            self._file.seek(0)
            shutil.copyfileobj(self._file, target, 1 << 20)
            self._file.seek(0, os.SEEK_END)

    def _flush(self) -> None:
        if not self._is_flushed:
            self._file.flush()
            self._is_flushed = True
