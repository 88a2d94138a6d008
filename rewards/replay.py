"""Which comparisons the next reward model is trained on: original ones, this round's, and those of earlier rounds. Plain data.

Held-out comparisons are never among them. Ties, which do not say which completion is better, are among them only with
`reward.targets: soft`.

A mixture is recorded by reference (`mixture.json`), because the run has the rows already, in `setup/filter/pairs.jsonl` and in
`label/comparisons.jsonl` of each round. With these files, anybody can get the rows again, in the order of training:

    rows = Mixture.read(run / "round-001/retrain/mixture.json").rows(original, [comparisons of round 0, comparisons of round 1])
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path

from configs.schema import RetrainConfig
from configs.seeds import derive_seed, draw
from rewards.comparisons import Comparison


@dataclass(frozen=True)
class Mixture:
    """The original pairs, if `original` is true, and then the comparisons of the rounds from `first_round` to `last_round`.

    If `last_round` is less than `first_round`, there are no such rounds. Held-out rows are left out, and ties too, unless `ties` is true.
    drawn: the numbers of the rows that are used, from 0; None means all of them.
    """

    original: bool
    first_round: int
    last_round: int
    drawn: list[int] | None = None
    ties: bool = False

    def rows(self, original: Sequence[Comparison], by_round: Sequence[Sequence[Comparison]]) -> list[Comparison]:
        """The comparisons themselves. `by_round[r]` has those of round r. Rounds after `last_round` do not matter."""
        parts = [original] if self.original else []
        parts += by_round[self.first_round : self.last_round + 1]
        usable = [row for part in parts for row in part if is_usable(row, self.ties)]
        return usable if self.drawn is None else [usable[i] for i in self.drawn]

    def write(self, path: Path) -> None:
        """Write the record."""
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Mixture":
        """Read a record."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


ORIGINAL = Mixture(original=True, first_round=0, last_round=-1)
"""The original pairs alone, which the reward model of round 0 is trained on."""


def mix(
    original: Sequence[Comparison], by_round: Sequence[Sequence[Comparison]], config: RetrainConfig, seed: int, ties: bool = False
) -> Mixture:
    """The mixture for `retrain.data`: `concat` is everything, or `max_pairs` rows with stated shares; `last` is the newest round only;
    `sample` is `mixture_pairs` rows drawn from everything.

    by_round[r] has the comparisons of round r. The last entry is this round's. seed: decides which rows are drawn. ties: whether they
    are used.
    """
    newest = len(by_round) - 1
    if config.data == "last":
        return Mixture(False, newest, newest, ties=ties)
    everything = Mixture(True, 0, newest, ties=ties)
    if config.data == "sample":
        return replace(everything, drawn=draw(range(len(everything.rows(original, by_round))), config.mixture_pairs, seed))
    if config.max_pairs is None:
        return everything
    sizes = [sum(is_usable(row, ties) for row in part) for part in (original, *by_round)]
    counts, ends = shares(sizes, config.max_pairs, config), accumulate(sizes)
    drawn = [
        draw(range(end - size, end), count, derive_seed(seed, part))
        for part, (size, end, count) in enumerate(zip(sizes, ends, counts, strict=True))
    ]
    return everything if counts == sizes else replace(everything, drawn=[number for part in drawn for number in part])


def shares(sizes: Sequence[int], total: int, config: RetrainConfig) -> list[int]:
    """How many of `total` rows are drawn from each part: from the original pairs, from each earlier round, and from this round.

    sizes: how many rows each part has, in this order. The original pairs get `original_fraction`, this round `fresh_fraction`, and the
    earlier rounds the rest. Among these, a row of the last round has weight 1, and the weight halves with every `half_life` rounds.
    A part with too few rows gives all it has, and the other parts get the rest of its share, in proportion to their own. A part
    whose share is 0 gets nothing. So the counts add up to `total` wherever the parts with a share have so many rows.
    """
    original, *earlier, fresh = sizes
    rest = round(1.0 - config.original_fraction - config.fresh_fraction, 9)  # exactly 0 where the two add up to 1
    from_original, from_earlier, from_fresh = divide(
        total, [config.original_fraction, rest, config.fresh_fraction], [original, sum(earlier), fresh]
    )
    ages = range(len(earlier) - 1, -1, -1)
    weights = [size * 0.5 ** (age / config.half_life) for size, age in zip(earlier, ages, strict=True)]
    return [from_original, *divide(from_earlier, weights, earlier), from_fresh]


def divide(total: int, weights: Sequence[float], sizes: Sequence[int]) -> list[int]:
    """Whole numbers that are in proportion to `weights`, at most `sizes`, and add up to `total` where the sizes allow it.

    What a part cannot take goes to the other parts, in proportion to their weights. Fractions are rounded by the largest remainders. A
    part with weight 0 gets 0.
    """
    counts, unfilled = [0] * len(sizes), [part for part, weight in enumerate(weights) if weight > 0.0]
    while True:
        left, weight = total - sum(counts), sum(weights[part] for part in unfilled)
        quotas = {part: left * weights[part] / weight for part in unfilled}
        full = [part for part in unfilled if sizes[part] <= quotas[part]]
        if not full:
            break
        for part in full:
            counts[part] = sizes[part]
        unfilled = [part for part in unfilled if part not in full]
    for part in unfilled:
        counts[part] = int(quotas[part])
    by_remainder = sorted(unfilled, key=lambda part: counts[part] - quotas[part])
    for part in by_remainder[: total - sum(counts)]:
        counts[part] += 1
    return counts


def is_usable(row: Comparison, ties: bool = False) -> bool:
    """Whether a reward model may be trained on a comparison: it is not held out, and says which completion is better, or `ties` count."""
    return not row.heldout and (ties or not row.tie)


def composition(pairs: Sequence[Comparison]) -> dict[str, int]:
    """How many pairs there are of each origin: `original`, `round-000`, ..."""
    return dict(Counter(origin(pair.generation) for pair in pairs))


def origin(generation: int | None) -> str:
    """Where a row with completions of this generation comes from, in words."""
    return "original" if generation is None else f"round-{generation:03d}"
