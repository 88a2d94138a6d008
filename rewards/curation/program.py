"""The child process of `loop data`, because readers of data import torch, and a command must not.

It reads a request from standard input and writes lines of JSON: `{"rows": N}` while it reads, and at last `{"survey": ...}` or
`{"error": [what, where, to do]}`.
"""

import json
import os
import sys
from typing import Any

from configs.errors import UserError
from configs.schema import RunConfig
from rewards.curation.survey import survey


def main() -> None:
    """One survey. What libraries and functions of the user's print does not mix with the answer."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        answer.write(json.dumps(message) + "\n")  # in ASCII, whatever the encoding of the pipe, and with any byte of a file's name
        answer.flush()

    request = json.load(sys.stdin)
    try:
        found = survey(RunConfig.model_validate(request["config"]), lambda rows: say({"rows": rows}))
    except UserError as error:
        say({"error": [error.what, error.where, error.to_do]})
    else:
        say({"survey": found.as_json()})


if __name__ == "__main__":
    main()
