"""Looks through all original rows of a config without a run: what `loop data` prints. One pass over the rows; no text is kept.

Memory grows by about 850 bytes a pair (`sketches.py`, `near.py`), and not with the length of its texts.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from configs.schema import RunConfig
from rewards.comparisons import Comparison, Demonstration, PromptRecord
from rewards.curation.applying import Curator
from rewards.curation.deciding import contradictions
from rewards.curation.languages import language_of
from rewards.curation.ledger import remove
from rewards.curation.near import NearDuplicates
from rewards.curation.sketches import Sketches, prompt_text
from rewards.data import embedded
from rewards.data.counts import SourceCounts, read_counted
from rewards.data.splits import Side, Split
from rewards.data.unusable import Unusable

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
    """Read all sources. `report` is called with the number of rows now and then. Raises UserError."""
    taker, accounts = _Survey(config), list[SourceCounts]()
    if config.data.source == "embedded":
        pairs, prompts = embedded.by_side(embedded.load(config.data, config.seed))
        for pair, side in pairs:
            taker.take_pair(pair, side)
        for prompt, side in prompts:
            taker.curator.add_prompt(prompt, side)
        return taker.finish(accounts)
    split = Split(config.seed, config.data.heldout_fraction, config.data.labeler_fraction)
    for number, (counts, row) in enumerate(read_counted(config.data, config.seed, accounts, is_refused=False), 1):
        if isinstance(row, Unusable):
            taker.take_unusable(row)
            continue
        for record in row.records:
            side = split.side(record.prompt)
            if isinstance(record, Comparison):
                taker.take_pair(record, side, counts.source.config.weight)
            else:
                taker.take_prompt(record, side)
        if number % 500 == 0:
            report(number)
    return taker.finish(accounts)


class _Survey:
    """Takes in record after record, and keeps no text."""

    def __init__(self, config: RunConfig):
        self.config = config
        max_pairs = None if config.data.source == "embedded" else config.data.max_pairs
        self.curator = Curator(config.curation, max_pairs, config.seed)
        self.rows, self.lengths = NearDuplicates(), _Lengths()
        self.languages: dict[str, Counter[str]] = defaultdict(Counter)
        self.unusable: dict[str, dict[str, Any]] = {}
        self.others: list[tuple[PromptRecord | Demonstration, Side]] = []

    def take_pair(self, pair: Comparison, side: Side, weight: float = 1.0) -> None:
        text = prompt_text(pair.prompt)
        self.curator.add(pair, side, weight, self.curator.draws(weight))
        self.rows.add(f"{text}\n{pair.chosen}\n{pair.rejected}")
        asked, answered = self.lengths.add("prompt", text), self.lengths.add("chosen", pair.chosen)
        self.lengths.add("rejected", pair.rejected)
        self.languages[pair.source][f"{asked} -> {answered}"] += 1

    def take_prompt(self, record: PromptRecord | Demonstration, side: Side) -> None:
        """A prompt without a pair, perhaps with an answer. Its texts are forgotten once they are counted."""
        asked = self.lengths.add("prompt", prompt_text(record.prompt))
        answered = self.lengths.add("answer", record.answer) if isinstance(record, Demonstration) else "nothing"
        self.languages[record.source][f"{asked} -> {answered}"] += 1
        self.curator.add_prompt(record, side)
        kept = replace(record, prompt="", answer="") if isinstance(record, Demonstration) else replace(record, prompt="")
        self.others.append((kept, side))

    def take_unusable(self, row: Unusable) -> None:
        found = self.unusable.setdefault(row.reason, {"rows": 0, "places": []})
        found["rows"] += 1
        found["places"] += [row.place] if found["rows"] <= NAMED_ROWS else []

    def finish(self, accounts: Sequence[SourceCounts]) -> Survey:
        ledger, sketches = self.curator.ledger, self.curator.sketches
        for account in accounts:
            for reason, count in account.left_out.items():
                ledger.add(account.source.name, remove(reason), count)
        self.curator.decide()
        for record, side in self.others:
            if isinstance(record, Demonstration):
                self.curator.end_of_answer(record, side)
            else:
                self.curator.end_of_prompt(record, side)
        ledger.check()
        near_prompts = self.curator.repeated.get("near_heldout")
        return Survey(
            ledger.as_json(),
            self.unusable,
            _spread(sketches.first_of_same(), sketches),
            _spread(self.rows.groups(self.config.curation.near_threshold), sketches),
            near_prompts,
            dict(Counter(sketches.sources[sketches.source[places[0]]] for places in contradictions(sketches))),
            sum(len(set(sketches.rater[places].tolist()) - {0}) > 1 for places in sketches.same_pairs()),
            self.lengths.quantiles(),
            {source: dict(found.most_common()) for source, found in self.languages.items()},
        )


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
