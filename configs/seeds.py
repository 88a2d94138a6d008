"""One seed for every random choice, derived from names. Must never read a clock, a PID or global state."""

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def derive_seed(*names: object) -> int:
    """A 63-bit seed from (run seed, round, stage, item, ...).

    Names are joined by "/" and hashed with SHA-256, so a seed does not depend on what else ran before it.
    """
    text = "/".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def draw(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """`count` of the items, or all where there are fewer: every one with the same chance, kept in their order.

    Files are often sorted by source or language, so the first items, or every n-th one, stand for a part of the file only.
    """
    kept = random.Random(seed).sample(range(len(items)), min(count, len(items)))
    return [items[i] for i in sorted(kept)]
