"""Rows of a data set on the Hugging Face hub."""

from configs.errors import UserError
from configs.schema import DataConfig
from rewards.data.rows import Rows, check_columns, first_cause, numbered


def read_rows(source: str, config: DataConfig) -> Rows:
    """All rows of `data.split` of a data set. Raises UserError if it cannot be loaded, or lacks a column."""
    from datasets import load_dataset  # imports torch and more, which takes seconds

    where = f"{source} ({config.split})"
    try:
        rows = numbered(load_dataset(source, split=config.split).to_list(), where)
    except ConnectionError:
        to_do = "connect to the network, set HF_ENDPOINT to a mirror, or download the pairs elsewhere and give them as a file"
        raise UserError("the hub cannot be reached, and this data set was never downloaded here", f"data.source={source}", to_do) from None
    except Exception as error:  # the hub's client raises errors of four libraries
        raise UserError(f"the data set cannot be loaded: {first_cause(error)}", where, "check data.source and data.split") from None
    check_columns(rows, source)
    return rows
