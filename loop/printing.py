"""The one way from text to the terminal. Messages quote data files, configs and journals, which anybody may have written.

A control character in such a text could move the cursor, hide what follows, or reverse its direction. These characters are shown in
the form that JSON gives them (`\\u001b`), so JSON that is printed stays the same JSON.
"""

import re
import sys

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except tab and line feed, line separators, direction overrides, and halves of surrogate pairs, which no encoding
can write. Joiners and combining marks stay, because Thai, Arabic and emoji need them."""


def printable(text: str) -> str:
    """`text` with every character of `UNPRINTABLE` as an escape sequence of JSON."""
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(text: str, to_stderr: bool = False) -> None:
    """Print one message of one or several lines."""
    print(printable(text), file=sys.stderr if to_stderr else sys.stdout)
