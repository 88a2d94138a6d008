"""One seed for every random choice, derived from names. Must never read a clock, a PID or global state."""

import hashlib


def derive_seed(*names: object) -> int:
    """A 63-bit seed from (run seed, round, stage, item, ...).

    Names are joined by "/" and hashed with SHA-256, so a seed does not depend on what else ran before it.
    """
    text = "/".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
