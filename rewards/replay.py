"""Which comparisons the next reward model is trained on: original, this round's, earlier generations'. Plain data.

Held-out comparisons never get in; neither do ties, which say nothing about which completion is better.

A mixture is recorded by reference (`mixture.json`), since the rows are in the run already: `filter/pairs.jsonl` of the setup, and
`label/comparisons.jsonl` of each round. Whoever reads these files can have the rows again, in the order of training:

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
    """The original pairs, if `original`, then the comparisons of the rounds from `first_round` to `last_round`, without held-out rows and
    ties. `drawn`: of these, the rows that are used, counted from 0; None: all of them."""

    original: bool
    first_round: int
    last_round: int
    drawn: list[int] | None = None

    def rows(self, original: Sequence[Comparison], by_generation: Sequence[Sequence[Comparison]]) -> list[Comparison]:
        """The comparisons themselves. by_generation[r] are those of round r; later rounds than `last_round` do not matter."""
        parts = [original] if self.original else []
        parts += by_generation[self.first_round : self.last_round + 1]
        usable = [row for part in parts for row in part if not row.heldout and not row.tie]
        return usable if self.drawn is None else [usable[i] for i in self.drawn]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Mixture":
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def mix(original: Sequence[Comparison], by_generation: Sequence[Sequence[Comparison]], config: RetrainConfig, seed: int) -> Mixture:
    """concat: everything; last: the newest generation only; sample: `mixture_pairs` of everything, drawn by `seed`.

    by_generation[r] are the comparisons of round r; the last entry is this round's.
    """
    newest = len(by_generation) - 1
    if config.data == "last":
        return Mixture(False, newest, newest)
    everything = Mixture(True, 0, newest)
    if config.data == "concat":
        return everything
    return Mixture(True, 0, newest, draw(range(len(everything.rows(original, by_generation))), config.mixture_pairs, seed))


def composition(pairs: Sequence[Comparison]) -> dict[str, int]:
    """How many pairs of each origin: `original`, `round-000`, ..."""
    return dict(Counter(origin(pair) for pair in pairs))


def origin(pair: Comparison) -> str:
    return "original" if pair.generation is None else f"round-{pair.generation:03d}"
