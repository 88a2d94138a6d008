"""Texts that a policy or a data file could hold to break what shows them. `MARK` would be run or seen as HTML where one of them works."""

import random

MARK = "pwned"
PIECES = (
    f"</script><script>document.title='{MARK}'</script>",
    f"<img src=x onerror=\"document.title='{MARK}'\">",
    f"<!--<script>document.title='{MARK}'//",
    "]]><svg onload=alert(1)>",
    f"\"'><a href=javascript:document.title='{MARK}'>x</a>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;&#0;",
    "\u202edesrever\u202c \u2066isolate",
    "\x1b[2J\x1b]0;title\x07\x1b[31mred",
    "\x00NUL\x07\x08\r",
    "\ud800 lone \udfff",
    "\u2028\u2029",
    "ก้้้้้้้้้้้้ น้ำใจ",
    "👩‍👩‍👧‍👦 مرحبا שלום",
    "$x^2$ \\frac{1}{2} _under_ *star* [red]markup[/red] :smile:",
    "x" * 100_000,
    "\n" * 300,
)


def writable_texts(count: int) -> list[str]:
    """Those of `hostile_texts` that can stand in a journal, which is UTF-8: halves of surrogate pairs cannot."""
    return [text for text in hostile_texts(count) if not any("\ud800" <= character <= "\udfff" for character in text)]


def hostile_texts(count: int, seed: int = 0) -> list[str]:
    """Mixtures of the pieces, the same for the same seed. Each piece is the beginning of one of them."""
    rng = random.Random(seed)
    short = [piece for piece in PIECES if len(piece) < 1000]
    return [PIECES[i % len(PIECES)] + "".join(rng.choices(short, k=rng.randrange(4))) for i in range(count)]
