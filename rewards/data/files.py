"""Rows of a file of preference pairs."""

from pathlib import Path

from configs.errors import UserError
from configs.schema import DataConfig
from rewards.data.csv_rows import read_csv
from rewards.data.json_lines import read_json, read_json_lines
from rewards.data.rows import Rows, check_columns, first_cause, numbered
from rewards.data.sources import FILE_KINDS, file_kind

READERS = {"jsonl": read_json_lines, "json": read_json, "csv": read_csv}
"""Kinds of file that are read here. `datasets` would guess types, and turn the answers NA and 007 into nothing and into 7."""


def read_rows(source: str, config: DataConfig) -> Rows:
    """All rows of the file `source`. Raises UserError if it cannot be read, or lacks a column."""
    path, kind = Path(source), str(file_kind(source))
    try:
        if kind in READERS:
            rows = [(f"{path}, {place}", row) for place, row in READERS[kind](path)]
        else:
            from datasets import load_dataset  # imports torch and more, which takes seconds

            rows = numbered(load_dataset(FILE_KINDS[kind], data_files=str(path), split="train").to_list(), str(path))
    except UserError:
        raise
    except Exception as error:  # datasets wraps the many error types of its parsers in its own
        what = f"the data file cannot be read: {first_cause(error)}"
        raise UserError(what, str(path), "check that its content is what its name says") from None
    check_columns(rows, str(path))
    return rows
