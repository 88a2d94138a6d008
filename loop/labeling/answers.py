"""The label file of one round, as the labeling page writes it: one JSON object a line, in the form of `rewards/labelers/label_rows.py`.

Invariant: a label that `add` has returned for is on disk, and each rater has at most one label of a pair. Rows that the run cannot use are
no labels here either. A crash leaves at most one line that is not whole, whose rater was never told that it is saved; the next start
removes it. Rows that other programs wrote stay as they are, byte for byte. Must never import torch or Ray.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.errors import UserError
from loop.store.artifacts import sync
from rewards.comparisons import round_of
from rewards.data.json_lines import parse_line
from rewards.data.unusable import BadRow
from rewards.labelers.label_rows import ByIds, check

Row = dict[str, Any]
PairIds = frozenset[str]
TIE = "tie"


class Conflict(Exception):
    """The rater has already given another verdict on this pair."""


def pair_of(row: Mapping[str, Any]) -> PairIds:
    """The two samples that a row is about, in no order."""
    return frozenset((row["chosen_id"], row["rejected_id"]))


def verdict(row: Mapping[str, Any]) -> str:
    """What a row says of its pair: the id of the better sample, or `tie`."""
    return TIE if row.get("tie") else row["chosen_id"]


class AnswerFile:
    """The labels of one file by rater and pair. Use `opened` to get one."""

    def __init__(self, path: Path):
        self.path = path
        _repair(path)
        self.answers = read_answers(path)

    def add(self, row: Row) -> bool:
        """Append a label and wait until it is on disk. False if it is there already. Raises Conflict for another verdict, and OSError if
        the disk refuses, which leaves the file as it was. The row's texts must not hold halves of surrogate pairs."""
        key = row["rater"], pair_of(row)
        known = self.answers.get(key)
        if known is not None:
            if verdict(known) != verdict(row):
                raise Conflict(f"{row['rater'] or 'a nameless rater'} has already labeled this pair")
            return False
        append_synced(self.path, [row])
        self.answers[key] = row
        return True

    def remove(self, rater: str, pair: PairIds) -> bool:
        """Take a rater's label of a pair back. A reader sees the file as it was or without the label. False if there is none.

        What another program appends meanwhile is kept.
        """
        if (rater, pair) not in self.answers:
            return False
        with self.path.open("rb") as before:
            kept = [line for line in before if not _is_of(line, rater, pair)]
            _replace(self.path, b"".join(kept))
            if late := before.read():
                _append(self.path, late, is_line=False)
        del self.answers[rater, pair]
        return True


def read_answers(path: Path) -> dict[tuple[str, PairIds], Row]:
    """The labels of a file by rater and pair. Never writes into it, so another program may be writing a line."""
    answers: dict[tuple[str, PairIds], Row] = {}
    for row in filter(None, map(_row, _lines(path))):
        key = row.get("rater") or "", pair_of(row)
        known = answers.get(key)
        if known is None or str(known.get("labeled_at") or "") <= str(row.get("labeled_at") or ""):
            answers[key] = row  # of two verdicts by hand, the later one counts, as in `matching.py`
    return answers


@contextmanager
def opened(path: Path) -> Iterator[AnswerFile]:
    """The label file, held by this process. Raises UserError if another page writes into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            to_do = "use that page, which several raters can share, or stop it"
            raise UserError("another labeling page writes into this file", str(path), to_do) from None
        yield AnswerFile(path)


def append_synced(path: Path, rows: Iterable[Row]) -> None:
    """Append rows and wait until they are on disk. Raises OSError if the disk refuses, which leaves the file as it was."""
    _append(path, b"".join(json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n" for row in rows))


def read_rows(path: Path) -> list[Row]:
    """The rows of a file that only `append_synced` writes. A last line that is not whole is removed first."""
    _repair(path)
    return [json.loads(line) for line in _lines(path)]


def _append(path: Path, data: bytes, is_line: bool = True) -> None:
    """is_line: the bytes begin a line of their own, also where another program left its last line without an end."""
    is_new = not path.exists()
    with path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if is_line and size:
            file.seek(-1, os.SEEK_END)
            data = data if file.read(1) == b"\n" else b"\n" + data
        try:
            if file.write(data) != len(data):
                raise OSError("the disk took only a part of the line")
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise
    if is_new:
        sync(path.parent)


def _replace(path: Path, data: bytes) -> None:
    """Replace a file at once: after a crash it has the new bytes, or the old ones."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def _repair(path: Path) -> None:
    """Remove a last line that is not whole, and end a whole one that has no line feed."""
    lines = _lines(path)
    if not lines or lines[-1].endswith(b"\n"):
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        if _is_json(lines[-1]):
            file.write(b"\n")
        else:
            file.truncate(end - len(lines[-1]))
        os.fsync(file.fileno())


def _lines(path: Path) -> list[bytes]:
    """Only a line feed ends a line, as for the readers of label files."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return file.readlines()


def is_label(row: Any) -> bool:
    """Whether a row names two samples in the form that the run reads. What is wrong with any other row, the run says."""
    try:
        form = check(row) if isinstance(row, dict) else None
    except BadRow:
        return False
    if not isinstance(form, ByIds):
        return False
    rounds = {form.round, round_of(form.chosen_id), round_of(form.rejected_id)} - {None}
    return form.chosen_id != form.rejected_id and len(rounds) < 2


def _row(line: bytes) -> Row | None:
    """The row of a line, if it is a label that names two samples. The run reads lines by `parse_line` too, which is strict: it refuses a
    key that is given twice, and half of a surrogate pair."""
    try:
        row = parse_line(line.rstrip(b"\n"), "the line")
    except BadRow:
        return None
    return row if is_label(row) else None


def _is_of(line: bytes, rater: str, pair: PairIds) -> bool:
    row = _row(line)
    return row is not None and (row.get("rater") or "") == rater and pair_of(row) == pair


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
