"""Which comparisons the next reward model is trained on: original, this round's, earlier generations'. Plain data.

Held-out comparisons never get in; neither do ties, which say nothing about which completion is better.
"""

from collections import Counter
from collections.abc import Sequence

from configs.schema import RetrainConfig
from configs.seeds import draw
from rewards.comparisons import Comparison


def mix(
    original: Sequence[Comparison], by_generation: Sequence[Sequence[Comparison]], config: RetrainConfig, seed: int
) -> list[Comparison]:
    """concat: everything; last: the newest generation only; sample: `mixture_pairs` of everything, drawn by `seed`.

    by_generation[r] are the comparisons of round r; the last entry is this round's.
    """
    parts = [by_generation[-1]] if config.data == "last" else [original, *by_generation]
    pairs = [row for part in parts for row in part if not row.heldout and not row.tie]
    return draw(pairs, config.mixture_pairs, seed) if config.data == "sample" else pairs


def composition(pairs: Sequence[Comparison]) -> dict[str, int]:
    """How many pairs of each origin: `original`, `round-000`, ..."""
    return dict(Counter(origin(pair) for pair in pairs))


def origin(pair: Comparison) -> str:
    return "original" if pair.generation is None else f"round-{pair.generation:03d}"
