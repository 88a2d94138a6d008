"""Texts that a policy could write to harm the page or its reader, and many mixtures of them."""

import random

MARK = "hacked"
PIECES = [
    f"<script>window.{MARK}=1;document.title='{MARK}'</script>",
    f"<img src=x onerror=\"window.{MARK}=1\">",
    f"<svg/onload=window.{MARK}=1>",
    f"</div></article><iframe srcdoc=\"<script>parent.{MARK}=1</script>\"></iframe>",
    f"<a href=\"javascript:window.{MARK}=1\">click</a>",
    f"'-window.{MARK}=1-'",
    f"\";window.{MARK}=1//",
    "<style>body{display:none}</style>",
    "<base href=//evil.example/><form action=//evil.example/><input autofocus>",
    "<!-- ", "]]>", "&lt;b&gt; &amp;", "{{7*7}}", "${7*7}", "__proto__", "\\u003cb\\u003e",
    "\u202eright to left\u202c", "\u2067isolated\u2069", "\u200f\u200e\u061c", "\u2028\u2029\x85",
    "\x1b[2J\x1b]0;title\x07", "\x00", "\ud800", "\udfff\ud83d", "\ufeff\ufffe\uffff", "\r\n\t\v\f\x08",
    "สวัสดีค่ะ น้ำเก่าก่ำ เป็นอย่างไรบ้างคะ", "ภาษาไทยไม่เว้นวรรค" * 40, "مرحبا بالعالم שלום",
    "Z" + "\u0301\u0321\u0489" * 60, "👩‍👩‍👧‍👦🇹🇭", "\U0010ffff", "x" * 3000, " " * 500, "\n" * 50, "",
]  # fmt: skip
LONG = 100_000


def hostile_texts(count: int, seed: int = 0) -> list[str]:
    """So many different texts: every piece alone, some lines of 100 kB, and then pieces in random mixtures."""
    chance = random.Random(seed)
    found = dict.fromkeys([*PIECES, *(piece * (LONG // len(piece) + 1) for piece in PIECES[:4] if piece), "ก็" * (LONG // 2)])
    while len(found) < count:
        found["".join(chance.choices(PIECES, k=chance.randrange(2, 7)))] = None
    return list(found)[:count]
