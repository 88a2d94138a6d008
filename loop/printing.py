"""The one way from text to the terminal. Messages quote data files, configs and journals, which anybody may have written.

A control character in them could move the cursor, colour or hide what follows, or turn its direction round. Such characters
are shown as JSON writes them (`\\u001b`), so that JSON which is printed stays the same JSON.
"""

import re
import sys

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls but for tab and line feed, separators of lines, overrides of direction, and halves of surrogate pairs, which no
encoding can write. Joiners and marks stay: Thai, Arabic and emoji need them."""


def printable(text: str) -> str:
    """`text` with every character of `UNPRINTABLE` as an escape sequence of JSON."""
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(text: str, to_stderr: bool = False) -> None:
    """One message as a line, or several."""
    print(printable(text), file=sys.stderr if to_stderr else sys.stdout)
