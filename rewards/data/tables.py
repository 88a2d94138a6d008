"""Rows of tables: Parquet and Arrow files, folders that `save_to_disk` wrote, and data sets of the hub. Read in batches, never whole."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import UserError

BATCH_ROWS = 256
"""How many rows are turned into Python objects at a time."""

Rows = Iterator[tuple[str, dict[str, Any]]]


def read_parquet(path: Path) -> Rows:
    """Yields ("row N", row) for each row of a Parquet file."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        yield from _numbered(batch.to_pylist() for batch in file.iter_batches(BATCH_ROWS))


def read_arrow(path: Path) -> Rows:
    """Yields ("row N", row) for each row of an Arrow file, which may be in the form of a stream or of a file."""
    import pyarrow

    with pyarrow.OSFile(str(path)) as file:
        if file.read(6) == b"ARROW1":
            reader = pyarrow.ipc.open_file(file)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            file.seek(0)
            batches = iter(pyarrow.ipc.open_stream(file))
        yield from _numbered(_rows_of(batch) for batch in batches)


def read_saved(folder: Path, split: str) -> Rows:
    """Yields ("row N", row) for each row of a data set that `save_to_disk` wrote. Raises UserError if it has no such split."""
    import datasets  # imports torch and more, which takes seconds

    found = datasets.load_from_disk(str(folder))
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise UserError(f"there is no split {split!r}", str(folder), f"choose one: split: {' | '.join(sorted(found))}")
        found = found[split]
    yield from _of_dataset(found)


def read_hub(name: str, config_name: str | None, split: str, revision: str | None) -> Rows:
    """Yields ("row N", row) for each row of a data set of the hub, which `datasets` keeps in its cache. Raises UserError."""
    import datasets

    try:
        found = datasets.load_dataset(name, config_name, split=split, revision=revision)
    except ConnectionError:
        to_do = "connect to the network, set HF_ENDPOINT to a mirror, or download the pairs elsewhere and give them as a file"
        raise UserError("the hub cannot be reached, and this data set was never downloaded here", f"data.source={name}", to_do) from None
    except Exception as error:  # the hub's client raises errors of four libraries
        what = f"the data set cannot be loaded: {first_cause(error)}"
        raise UserError(what, f"{name} ({split})", "check its name, configuration, split and revision") from None
    yield from _of_dataset(found)


def first_cause(error: Exception) -> str:
    """One line about the exception that an exception goes back to: libraries wrap errors in errors of their own."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _of_dataset(dataset: Any) -> Rows:
    yield from _numbered(batch.to_pylist() for batch in dataset.with_format("arrow").iter(BATCH_ROWS))


def _rows_of(batch: Any) -> list[dict[str, Any]]:
    return [row for start in range(0, batch.num_rows, BATCH_ROWS) for row in batch.slice(start, BATCH_ROWS).to_pylist()]


def _numbered(batches: Iterator[list[dict[str, Any]]]) -> Rows:
    number = 0
    for rows in batches:
        for row in rows:
            number += 1
            yield f"row {number}", row
