"""The one way from text to the terminal. Messages quote data files, configs and journals, which anybody may have written.

A control character in such a text could move the cursor, hide what follows, or reverse its direction. These characters are shown in
the form that JSON gives them (`\\u001b`), so JSON that is printed stays the same JSON.
"""

import codecs
import io
import json
import re
import sys

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except tab and line feed, line separators, direction overrides, and halves of surrogate pairs, which no encoding
can write. Joiners and combining marks stay, because Thai, Arabic and emoji need them."""

BEYOND_ASCII = re.compile("[^\x00-\x7f]+")


def printable(text: str) -> str:
    """`text` with every character of `UNPRINTABLE` as an escape sequence of JSON."""
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


AS_ESCAPES = "as escapes of JSON"
"""How Python calls `_as_escapes`."""


def _as_escapes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_ascii(error.object[error.start : error.end]), error.end


def in_ascii(text: str) -> str:
    """`text` with every character beyond ASCII as an escape sequence of JSON."""
    return BEYOND_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)


def accept_all_text() -> None:
    """Have standard output show characters that its encoding lacks in the form that JSON gives them. Without this, a terminal that is not
    in UTF-8 would end a command at the first letter of another script, or at a `±`."""
    codecs.register_error(AS_ESCAPES, _as_escapes)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=AS_ESCAPES)


def say(text: str, to_stderr: bool = False) -> None:
    """Print one message of one or several lines."""
    print(printable(text), file=sys.stderr if to_stderr else sys.stdout)
