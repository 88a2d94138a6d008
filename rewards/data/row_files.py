"""Many records as a sequence, of which only the places in a file are in memory: 8 bytes a record. Imports no ML library."""

import os
import shutil
import tempfile
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, Generic, TypeVar, overload

from rewards.comparisons import from_line, to_line

Record = TypeVar("Record")
BUFFER = 1 << 18
"""How many bytes are written or read at once."""


class StoredRows(Sequence[Record], Generic[Record]):
    """The records of an open file of JSON lines, read one by one.

    The file is read by positions and never mapped, so that what was read does not count as memory of the process. ends: where each
    record ends; found by one pass over the file, if it is not known.
    """

    def __init__(self, kind: type[Record], file: IO[bytes], ends: "array[int] | None" = None):
        self._kind, self._file = kind, file
        weakref.finalize(self, file.close)
        self._ends = ends or array("Q", accumulate(map(len, file), initial=0))

    @classmethod
    def of(cls, path: Path, kind: type[Record]) -> "StoredRows[Record]":
        """The records that `write_jsonl` has written into a file."""
        return cls(kind, path.open("rb"))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return from_line(self.line(range(len(self))[index]), self._kind)

    def line(self, number: int) -> bytes:
        """A record as it stands in the file, with the line feed. Copying it is faster than reading and writing the record."""
        return self._read(number, number + 1)

    def lines(self) -> Iterator[bytes]:
        """All records in order as they stand in the file (`line`), read in blocks."""
        start, ends = 0, self._ends
        while start < len(self):
            stop = max(bisect_right(ends, ends[start] + BUFFER) - 1, start + 1)
            block, begin = self._read(start, stop), ends[start]
            yield from (block[ends[number] - begin : ends[number + 1] - begin] for number in range(start, stop))
            start = stop

    def __iter__(self) -> Iterator[Record]:
        return (from_line(line, self._kind) for line in self.lines())

    def _read(self, start: int, stop: int) -> bytes:
        begin, end = self._ends[start], self._ends[stop]
        return os.pread(self._file.fileno(), end - begin, begin)


class RowFile(StoredRows[Record]):
    """Records that are added one by one. The file has no name, and is gone with this object."""

    def __init__(self, kind: type[Record], folder: Path):
        file = tempfile.TemporaryFile(buffering=BUFFER, dir=folder)  # noqa: SIM115 (it lives as long as this object)
        super().__init__(kind, file, array("Q", [0]))
        self._is_flushed = True

    def append(self, record: Record) -> None:
        """Add a record at the end."""
        self.append_line(to_line(record).encode())

    def append_line(self, line: bytes) -> None:
        """Add a record as it stands in another file (`line`)."""
        self._file.write(line)
        self._ends.append(self._ends[-1] + len(line))
        self._is_flushed = False

    def write(self, path: Path) -> None:
        """Write all records into a file of JSON lines."""
        self._flush()
        with path.open("wb") as target:
            self._file.seek(0)
            shutil.copyfileobj(self._file, target, 1 << 20)
            self._file.seek(0, os.SEEK_END)

    def _read(self, start: int, stop: int) -> bytes:
        self._flush()  # records may just have been added
        return super()._read(start, stop)

    def _flush(self) -> None:
        if not self._is_flushed:
            self._file.flush()
            self._is_flushed = True
