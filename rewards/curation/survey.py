"""Looks through all original rows of a config without a run: what `loop data` prints. One pass over the rows; no text is kept.

Memory grows by about 650 bytes a pair (`sketches.py`, `near.py`), and not with the length of its texts.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from configs.schema import RunConfig
from rewards.comparisons import Comparison
from rewards.curation.deciding import contradictions, decide, look_near_heldout
from rewards.curation.languages import language_of
from rewards.curation.ledger import Ledger, remove
from rewards.curation.near import NearDuplicates
from rewards.curation.sketches import Sketches, prompt_text
from rewards.data import embedded
from rewards.data.preference_data import Read, read_pairs
from rewards.data.splits import Side, Split

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
NAMED_ROWS = 1000
"""How many rows that cannot be used are named for each reason. All of them are counted."""


@dataclass(frozen=True)
class Spread:
    """Where repeated rows are. within: by source, rows that repeat an earlier row of the same source. across: by two sources, rows that
    repeat one of the other. heldout: rows that are not held out and repeat one that is."""

    within: dict[str, int]
    across: dict[str, int]
    heldout: int


@dataclass(frozen=True)
class Survey:
    """What was found. All values are JSON values.

    unusable: by reason, the number of rows and the places of the first NAMED_ROWS. lengths: for prompts and answers by language, the
    quantiles QUANTILES of their lengths in characters, after their number. languages: by source, how many pairs have a prompt and a chosen
    answer in these languages. contradictions: by source, pairs of answers that both have been preferred. several_raters: pairs of answers
    that more than one rater has judged.
    """

    ledger: dict[str, Any]
    unusable: dict[str, dict[str, Any]]
    exact: Spread
    near: Spread
    near_prompts: int | None
    contradictions: dict[str, int]
    several_raters: int
    lengths: dict[str, list[int]]
    languages: dict[str, dict[str, int]]

    def as_json(self) -> dict[str, Any]:
        """The survey as JSON values."""
        return asdict(self)


class _Lengths:
    """The lengths of texts, by part of the row and language."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[int]] = defaultdict(Counter)

    def add(self, part: str, text: str) -> str:
        """Enter a text, and return its language."""
        language = language_of(text)
        self.counts[f"{part}, {language}"][len(text)] += 1
        return language

    def quantiles(self) -> dict[str, list[int]]:
        """By part and language: the number of texts, and the quantiles of their lengths. The lengths are counted, so these are exact."""
        return {name: [count.total(), *_quantiles(count)] for name, count in sorted(self.counts.items())}


def survey(config: RunConfig, report: Callable[[int], None]) -> Survey:
    """Read everything that `data.source` names. `report` is called with the number of rows now and then. Raises UserError."""
    ledger, sketches = Ledger(), Sketches(compares_prompts=config.curation.near_heldout != "ignore")
    rows, lengths = NearDuplicates(), _Lengths()
    unusable: dict[str, dict[str, Any]] = {}
    languages: dict[str, Counter[str]] = defaultdict(Counter)
    for number, (read, side) in enumerate(_rows(config, sketches), 1):
        if read.pair is None:
            found = unusable.setdefault(read.reason, {"rows": 0, "places": []})
            found["rows"] += 1
            found["places"] += [read.place] if found["rows"] <= NAMED_ROWS else []
            ledger.add(read.source, remove(read.reason))
        else:
            pair, text = read.pair, prompt_text(read.pair.prompt)
            ledger.entry(pair.source)
            sketches.add(pair, side)
            rows.add(f"{text}\n{pair.chosen}\n{pair.rejected}")
            asked, answered = lengths.add("prompt", text), lengths.add("chosen", pair.chosen)
            lengths.add("rejected", pair.rejected)
            languages[pair.source][f"{asked} -> {answered}"] += 1
        if number % 500 == 0:
            report(number)
    near = look_near_heldout(sketches, config.curation)
    max_pairs = None if config.data.source == "embedded" else config.data.max_pairs
    for source, end in zip(sketches.source.tolist(), decide(sketches, config.curation, near, max_pairs, config.seed), strict=True):
        ledger.add(sketches.sources[source], end)
    ledger.check()
    return Survey(
        ledger.as_json(),
        unusable,
        _spread(sketches.first_of_same(), sketches),
        _spread(rows.groups(config.curation.near_threshold), sketches),
        None if near is None else int(near.sum()),
        dict(Counter(sketches.sources[sketches.source[places[0]]] for places in contradictions(sketches))),
        sum(len(set(sketches.rater[places].tolist()) - {0}) > 1 for places in sketches.same_pairs()),
        lengths.quantiles(),
        {source: dict(found.most_common()) for source, found in languages.items()},
    )


def _rows(config: RunConfig, sketches: Sketches) -> Iterator[tuple[Read, Side]]:
    """Each row with its side. The prompts of the embedded world are entered too: not all of them are asked by a pair."""
    data = config.data
    if data.source == "embedded":
        pairs, prompts = embedded.by_side(embedded.load(data, config.seed))
        yield from ((Read(pair.source, "", pair), side) for pair, side in pairs)
        for record, side in prompts:
            sketches.add_prompt(record.prompt_id, record.prompt, side)
        return
    split = Split(config.seed, data.heldout_fraction, data.labeler_fraction)
    for read in read_pairs(data):
        yield read, _side(split, read.pair)


def _side(split: Split, pair: Comparison | None) -> Side:
    return "training" if pair is None else split.side(pair.prompt)


def _spread(first: np.ndarray, sketches: Sketches) -> Spread:
    """Where rows repeat others. first: for each row, the place of the first row that it repeats, or its own."""
    names, source = sketches.sources, sketches.source
    again = np.flatnonzero(first != np.arange(len(first)))
    within: Counter[str] = Counter()
    across: Counter[str] = Counter()
    for here, there in zip(source[again].tolist(), source[first[again]].tolist(), strict=True):
        if here == there:
            within[names[here]] += 1
        else:
            across[f"{names[here]} of {names[there]}"] += 1
    heldout = sketches.on("heldout")
    leaked = np.isin(first, first[heldout]) & ~heldout
    return Spread(dict(within), dict(across), int(leaked.sum()))


def _quantiles(counts: Counter[int]) -> list[int]:
    """The smallest length that at least this share of the texts do not exceed."""
    lengths = np.array(sorted(counts))
    reached = np.cumsum([counts[length] for length in lengths.tolist()])
    return [int(lengths[np.searchsorted(reached, q * reached[-1] - 1e-9)]) for q in QUANTILES]
