"""Derives the seed of every random choice from names. Must never read a clock, a process id or global state."""

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def derive_seed(*names: object) -> int:
    """Return a 63-bit seed for the given names: run seed, round, stage, item and so on.

    The names are joined by "/" and hashed with SHA-256, so a seed does not depend on what ran before.
    """
    text = "/".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def draw(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """Draw `count` of the items, or all if there are fewer. Each item has the same chance, and their order is kept.

    Files are often sorted by source or language, so the first items, or every n-th item, would represent only a part of the file.
    """
    kept = random.Random(seed).sample(range(len(items)), min(count, len(items)))
    return [items[i] for i in sorted(kept)]
