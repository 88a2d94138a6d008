"""Rows that a user function yields, named in `data.source` as `module:function` or `file.py:function`.

    def pairs():
        for question, good, bad in my_database():
            yield {"prompt": question, "chosen": good, "rejected": bad}

It is called once, without arguments. Its rows have the same forms as those of a file.
"""

from configs import user_functions
from configs.errors import UserError
from configs.schema import DataConfig
from rewards.data.rows import Rows, check_columns, numbered


def read_rows(source: str, config: DataConfig) -> Rows:
    """All rows of the function `source`. Raises UserError if it cannot be used, or yields something else than rows."""
    rows = list(user_functions.load(source)())
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            what = f"row {number} is not a dictionary but {type(row).__name__}"
            raise UserError(what, source, 'yield {"prompt": ..., "chosen": ..., "rejected": ...} for each pair')
    checked = numbered(rows, source)
    check_columns(checked, source)
    return checked
