"""Which pair each rater is asked next, and what everybody has said so far.

Each rater has an order of the pairs, and sees each pair in an order, that depend on the seed, the rater's name and the pair only. So a page
that is loaded again shows the same pair in the same way. Of the open pairs, a rater gets the first that is on nobody else's screen:

    open       one label is wanted, or two for a share of the pairs (`double`), so that the agreement of the raters can be measured
    skipped    comes again when the rater has nothing else left

Must never tell a rater what another one said of a pair that is still open.
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from configs.seeds import derive_seed
from loop.labeling.answers import TIE, AnswerFile, PairIds, Row, append_synced, pair_of, read_rows, verdict
from loop.labeling.known import Known
from loop.labeling.rounds import LabelingRound, Pair
from rewards.comparisons import parse_answer_id, round_of
from rewards.labelers.raters import PairKey, alpha_of_pairs

LEFT, RIGHT = "left", "right"
CHOICES = (LEFT, RIGHT, TIE)


@dataclass(frozen=True)
class Agreement:
    """Of the pairs that several raters have labeled: how many there are, on how many all agree, and Krippendorff's alpha."""

    pairs: int
    agree: int
    alpha: float | None


class Queue:
    """The pairs of a round, the label file, and the file of skips. Only one process may have the two files open."""

    def __init__(self, asked: LabelingRound, answers: AnswerFile, skip_file: Path, double: float):
        self.asked, self._file, self._skip_file = asked, answers, skip_file
        self.pairs = {pair.name: pair for pair in asked.pairs}
        self._by_ids = {pair.ids: pair for pair in asked.pairs}
        self._doubled = {pair.name for pair in asked.pairs if derive_seed(asked.seed, "double", pair.name) < double * 2**63}
        self._votes: dict[PairIds, dict[str, str]] = {}
        for row in [*asked.rows_elsewhere(), *Known(asked).rows_by_texts(), *answers.answers.values()]:
            self._votes.setdefault(pair_of(row), {})[str(row.get("rater") or "")] = verdict(row)
        self._orders: dict[str, list[Pair]] = {}
        self._on_screen: dict[str, str] = {}
        self._history = self._read_history()

    # -- what a rater is asked ----------------------------------------------------------------------------------------

    def next(self, rater: str) -> Pair | None:
        """The pair that the rater is asked now: the same as before until the rater has labeled or skipped it. None if nothing is left."""
        before = self.pairs.get(self._on_screen.get(rater, ""))
        if before is None or rater in self._votes.get(before.ids, {}):
            found = self._choose(rater)
            self._on_screen[rater] = found.name if found else ""
            return found
        return before

    def sides(self, rater: str, pair: Pair) -> tuple[int, int]:
        """The numbers of the answers that the rater sees on the left and on the right."""
        left = derive_seed(self.asked.seed, "left", rater, pair.name) % 2
        return left, 1 - left

    # -- what a rater says --------------------------------------------------------------------------------------------

    def answer(self, rater: str, name: str, choice: str, note: str = "") -> bool:
        """Write a rater's verdict to disk. False if it was there already. Raises KeyError for an unknown pair, Conflict and OSError."""
        pair = self.pairs[name]
        row = self._row(rater, pair, choice, note)
        is_new = self._file.add(row)
        if is_new:
            self._votes.setdefault(pair.ids, {})[rater] = verdict(row)
            self._history.setdefault(rater, []).append((row["labeled_at"], name, False))
        return is_new

    def skip(self, rater: str, name: str) -> None:
        """Put a pair behind all others for this rater. A second time in a row changes nothing. Raises KeyError and OSError."""
        pair, history = self.pairs[name], self._history.setdefault(rater, [])
        self._on_screen.pop(rater, None)
        if not history or history[-1][1:] != (name, True):
            entry = (_now(), pair.name, True)
            append_synced(self._skip_file, [{"rater": rater, "pair": pair.name, "at": entry[0]}])
            history.append(entry)

    def undoable(self, rater: str) -> str:
        """What names the rater's last verdict or skip; empty if there is none."""
        history = self._history.get(rater)
        return " ".join(history[-1][:2]) if history else ""

    def undo(self, rater: str, what: str) -> bool:
        """Take back the rater's last verdict or skip, and ask that pair again. what: its `undoable`. False if that is not the last one, for
        example because it was taken back already. Raises OSError."""
        if not what or what != self.undoable(rater):
            return False
        at, name, was_skip = self._history[rater][-1]
        if was_skip:
            append_synced(self._skip_file, [{"rater": rater, "pair": name, "at": at, "undone": True}])
        else:
            self._file.remove(rater, self.pairs[name].ids)
            self._votes[self.pairs[name].ids].pop(rater, None)
        self._history[rater].pop()
        self._on_screen[rater] = name
        return True

    # -- how far it is ------------------------------------------------------------------------------------------------

    @property
    def labeled(self) -> int:
        """How many of the pairs have a label."""
        return sum(bool(self._votes.get(pair.ids)) for pair in self.asked.pairs)

    @property
    def wanted(self) -> int:
        """How many labeled pairs are enough.

        If people alone label, labeled pairs that are not on offer here count for `labeler.min_labels`, and while no pair of samples is
        labeled, one more is wanted than there are.
        """
        least, number = self.asked.min_labels, self.asked.number
        if self.asked.is_mixture:
            return min(len(self.pairs), least or len(self.pairs))
        labeled = (ids for ids, votes in self._votes.items() if votes)
        of_round = [ids for ids in labeled if all(round_of(id) == number for id in ids)]  # the file may hold those of other rounds too
        elsewhere = sum(ids not in self._by_ids for ids in of_round)
        enough = len(self.pairs) if least is None else min(len(self.pairs), max(1, least - elsewhere))
        has_samples = any(not any(map(parse_answer_id, ids)) for ids in of_round)
        return enough if has_samples else max(enough, self.labeled + 1)

    def skipped(self, rater: str) -> int:
        """How many pairs the rater has skipped and not labeled since."""
        return len([name for name in self._skips(rater) if self._is_open(self.pairs[name], rater)])

    def by_rater(self) -> dict[str, int]:
        """How many of the pairs each rater has labeled. Most first."""
        return dict(Counter(rater for pair in self.asked.pairs for rater in self._votes.get(pair.ids, {})).most_common())

    def agreement(self) -> Agreement:
        """How far the raters agree."""
        several = [(pair, votes) for pair in self.asked.pairs if len(votes := self._votes.get(pair.ids, {})) > 1]
        units: dict[PairKey, list[Hashable]] = {}
        for pair, votes in several:
            sides = {answer.id: (answer.id, answer.text, answer.finished) for answer in pair.answers}
            units[pair.prompt_id, frozenset(sides.values())] = [TIE if said == TIE else sides[said] for said in votes.values()]
        return Agreement(len(several), sum(len(set(votes.values())) == 1 for _, votes in several), alpha_of_pairs(units))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _choose(self, rater: str) -> Pair | None:
        """New pairs come before skipped ones. In both groups, those on another rater's screen come last, and first come those that wait for
        a second label, so that the agreement is known early."""
        elsewhere = {name for other, name in self._on_screen.items() if other != rater}
        skips = self._skips(rater)
        skipped = [self.pairs[name] for name in skips]
        new = (pair for pair in self._order(rater) if pair.name not in skips)
        for group in (new, skipped):
            still_open = [pair for pair in group if self._is_open(pair, rater)]
            if still_open:
                return min(still_open, key=lambda pair: (pair.name in elsewhere, not self._votes.get(pair.ids)))
        return None

    def _order(self, rater: str) -> list[Pair]:
        if rater not in self._orders:
            key = {pair.name: (pair.tier, derive_seed(self.asked.seed, "order", rater, pair.name)) for pair in self.asked.pairs}
            self._orders[rater] = sorted(self.asked.pairs, key=lambda pair: key[pair.name])
        return self._orders[rater]

    def _is_open(self, pair: Pair, rater: str) -> bool:
        votes = self._votes.get(pair.ids, {})
        return rater not in votes and len(votes) < (2 if pair.name in self._doubled else 1)

    def _skips(self, rater: str) -> dict[str, None]:
        """The names of the pairs that a rater has skipped. The one that was skipped last is at the end."""
        skips: dict[str, None] = {}
        for _, name, was_skip in self._history.get(rater, []):
            if was_skip and name in self.pairs:
                skips.pop(name, None)
                skips[name] = None
        return skips

    def _row(self, rater: str, pair: Pair, choice: str, note: str) -> Row:
        """The label as a row of a label file. A tie names the answers in the order of the samples, as the reader does."""
        left, right = self.sides(rater, pair)
        chosen = {LEFT: left, RIGHT: right, TIE: 0}[choice]
        row: Row = {"chosen_id": pair.answers[chosen].id, "rejected_id": pair.answers[1 - chosen].id, "tie": choice == TIE}
        row |= {"rater": rater, "labeled_at": _now(), "round": self.asked.number}
        row["shown_first"] = "chosen" if chosen == left else "rejected"
        return row | ({"comment": note} if note else {})

    def _read_history(self) -> dict[str, list[tuple[str, str, bool]]]:
        """For each rater the verdicts and skips that can be taken back, oldest first, as (time, pair, whether it is a skip)."""
        history: dict[str, list[tuple[str, str, bool]]] = {}
        for (rater, ids), row in self._file.answers.items():
            if ids in self._by_ids:
                history.setdefault(rater, []).append((str(row.get("labeled_at") or ""), self._by_ids[ids].name, False))
        for row in read_rows(self._skip_file):
            entries, entry = history.setdefault(row["rater"], []), (row["at"], row["pair"], True)
            if row.get("undone"):
                entries.remove(entry)
            else:
                entries.append(entry)
        return {rater: sorted(entries, key=lambda entry: entry[0]) for rater, entries in history.items()}


def _now() -> str:
    """The time as label files have it. Later times sort behind earlier ones."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
