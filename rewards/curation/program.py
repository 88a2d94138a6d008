"""The child process of `loop data`, because readers of data import torch, and a command must not.

It reads a request from standard input and writes lines of JSON: `{"rows": N}` while it reads, and at last `{"survey": ...}` or
`{"error": [what, where, to do]}`.
"""

import json
import sys
from typing import Any

from configs.errors import UserError
from configs.schema import RunConfig
from rewards.curation.survey import survey


def main() -> None:
    """One survey."""
    request = json.load(sys.stdin)
    try:
        found = survey(RunConfig.model_validate(request["config"]), lambda rows: _say({"rows": rows}))
    except UserError as error:
        _say({"error": [error.what, error.where, error.to_do]})
    else:
        _say({"survey": found.as_json()})


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")  # in ASCII, whatever the encoding of the pipe, and with any byte of a file's name
    sys.stdout.flush()


if __name__ == "__main__":
    main()
