"""Which comparisons the next reward model is trained on: original ones, this round's, and those of earlier rounds. Plain data.

Held-out comparisons are never among them, nor are ties, which do not say which completion is better.

A mixture is recorded by reference (`mixture.json`), because the run has the rows already, in `setup/filter/pairs.jsonl` and in
`label/comparisons.jsonl` of each round. With these files, anybody can get the rows again, in the order of training:

    rows = Mixture.read(run / "round-001/retrain/mixture.json").rows(original, [comparisons of round 0, comparisons of round 1])
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from configs.schema import RetrainConfig
from configs.seeds import draw
from rewards.comparisons import Comparison


@dataclass(frozen=True)
class Mixture:
    """The original pairs, if `original` is true, and then the comparisons of the rounds from `first_round` to `last_round`.

    Held-out rows and ties are left out. drawn: the numbers of the rows that are used, from 0; None means all of them.
    """

    original: bool
    first_round: int
    last_round: int
    drawn: list[int] | None = None

    def rows(self, original: Sequence[Comparison], by_round: Sequence[Sequence[Comparison]]) -> list[Comparison]:
        """The comparisons themselves. `by_round[r]` has those of round r. Rounds after `last_round` do not matter."""
        parts = [original] if self.original else []
        parts += by_round[self.first_round : self.last_round + 1]
        usable = [row for part in parts for row in part if not row.heldout and not row.tie]
        return usable if self.drawn is None else [usable[i] for i in self.drawn]

    def write(self, path: Path) -> None:
        """Write the record."""
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Mixture":
        """Read a record."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def mix(original: Sequence[Comparison], by_round: Sequence[Sequence[Comparison]], config: RetrainConfig, seed: int) -> Mixture:
    """The mixture for `retrain.data`: `concat` is everything, `last` is the newest round only, and `sample` is `mixture_pairs` rows drawn
    from everything.

    by_round[r] has the comparisons of round r. The last entry is this round's.
    """
    newest = len(by_round) - 1
    if config.data == "last":
        return Mixture(False, newest, newest)
    everything = Mixture(True, 0, newest)
    if config.data == "concat":
        return everything
    return Mixture(True, 0, newest, draw(range(len(everything.rows(original, by_round))), config.mixture_pairs, seed))


def composition(pairs: Sequence[Comparison]) -> dict[str, int]:
    """How many pairs there are of each origin: `original`, `round-000`, ..."""
    return dict(Counter(origin(pair) for pair in pairs))


def origin(pair: Comparison) -> str:
    """Where a pair comes from, in words."""
    return "original" if pair.generation is None else f"round-{pair.generation:03d}"
