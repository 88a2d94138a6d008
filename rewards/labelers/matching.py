"""Which comparisons the rows of label files say, each exactly once, whatever the order and the number of the files.

    the same rows twice, in parts, or in another order give the same comparisons, in the same order
    every row is a comparison, or is counted under the reason why it is none, or is refused with its place (`labeler.bad_rows`)

The reasons are below. Two raters may disagree. If one rater gives two verdicts on one pair, the later one counts, by `labeled_at`. Where
the times do not tell, neither can be used.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from configs.errors import UserError
from rewards.comparisons import WIN_RATE, Comparison, Sample, parse_answer_id, round_of
from rewards.data.normalizing import normalize, normalize_prompt
from rewards.data.rows import BadRow, Pair, parse_row
from rewards.data.rows import check as check_pair
from rewards.data.splits import content_id
from rewards.labelers.label_rows import ByIds, ByTexts, check, shown
from rewards.labelers.labels import Labels, LabelTask
from rewards.labelers.pairs import compare
from rewards.labelers.picking import match_answers
from rewards.labelers.raters import PairKey, pair_key

ANOTHER_ROUND = "about another round"
SAID_BEFORE = "said before"
EQUAL_TEXTS = "about two equal texts"
NO_DUEL = "about two answers that are not compared with each other"
USED_EARLIER = "used in an earlier round"
REPLACED = "replaced by a later verdict of the same rater"
CANNOT_BE_USED = "cannot be used"
SHOWN_ROWS = 20
"""How many rows that cannot be used are named in the metrics."""

Sides = list[tuple[str, str]]
"""Names of the better and the other completion of a row. There are several pairs of names if the run has sampled a text more than once."""
Said = tuple[str, frozenset[str]]
"""A rater, and the names of the two completions."""


@dataclass(frozen=True)
class Entry:
    """A row that says a comparison. round: the one it is about. sides: all names of its two completions. number: of the row, from 1."""

    round: "_Round"
    pair: Comparison
    sides: Sides
    place: str
    where: str
    number: int

    @property
    def rank(self) -> tuple[Any, ...]:
        """An order that does not depend on where a row stands."""
        pair = self.pair
        return pair.chosen_id, pair.rejected_id, pair.chosen, pair.rejected, pair.labeled_at, pair.shown_first, pair.confidence or 0.0


class _Round:
    """The samples of one round, by what a row may call them, and which of its pairs each rater has compared already.

    used: all comparisons about this round that the rounds before the one at hand have used.
    """

    def __init__(self, number: int, samples: Sequence[Sample], used: Sequence[Comparison] = (), is_normalized: bool = False):
        self.number = number
        self.by_id = {sample.id: sample for sample in samples}
        self.order = {sample.id: place for place, sample in enumerate(samples)}
        self._by_text: dict[tuple[str, str], list[Sample]] = {}
        self._by_normal_text: dict[tuple[str, str], list[Sample]] = {}
        for sample in sorted(samples, key=lambda s: not s.finished):  # if two have the same text, the finished one is meant
            prompt = content_id(sample.prompt)
            self._by_text.setdefault((prompt, sample.completion), []).append(sample)
            if is_normalized:
                self._by_normal_text.setdefault((prompt, normalize(sample.completion, Counter())), []).append(sample)
        self._said: dict[PairKey, list[str]] = {}
        for row in used:
            self._said.setdefault(pair_key(row), []).append(f", {row.rater}, ")

    def find(self, prompt_id: str, text: str) -> list[Sample]:
        """The samples that have this text, or else those that have it once both are normalized: policies may write any form."""
        return self._by_text.get((prompt_id, text)) or self._by_normal_text.get((prompt_id, normalize(text, Counter())), [])

    def has_used(self, pair: Comparison) -> bool:
        """Whether this rater's label of the pair was used before. Commas join the names of several raters, and a name may have some."""
        return any(f", {pair.rater}, " in raters for raters in self._said.get(pair_key(pair), ()))


class _Duels:
    """The pairs of answers that are compared for win rates, by what a row may call them."""

    def __init__(self, answers: Sequence[Sample], round_number: int):
        pairs = [pair for two in match_answers(answers, round_number) for pair in (two, two[::-1])]
        self._by_ids = {(a.id, b.id): (a, b) for a, b in pairs}
        self._by_texts = {(content_id(a.prompt), a.completion, b.completion): (a, b) for a, b in reversed(pairs)}

    def by_ids(self, chosen: str, rejected: str) -> tuple[Sample, Sample] | None:
        return self._by_ids.get((chosen, rejected))

    def by_texts(self, pair: Comparison) -> tuple[Sample, Sample] | None:
        """Where two policies wrote the same, the one that is compared first is meant."""
        return self._by_texts.get((pair.prompt_id, pair.chosen, pair.rejected)) if pair.chosen != pair.rejected else None


class Matcher:
    """Takes row after row, and says at the end which comparisons they are. Must never depend on the order of the rows."""

    def __init__(self, task: LabelTask):
        self.config, self.split, self.is_normalized = task.config, task.split, task.is_normalized
        self.now = _Round(task.round_number, task.samples, is_normalized=task.is_normalized)
        self._duels = _Duels(task.answers, task.round_number)
        self.now.order |= {answer.id: len(task.samples) + place for place, answer in enumerate(task.answers)}
        late = task.earlier if task.config.late == "use" else ()
        used: dict[int, list[Comparison]] = {}  # by the round that they are about, which may have been labeled before they came
        for past in late:
            for row in past.comparisons:
                about = round_of(row.chosen_id) if row.chosen_id else row.generation
                used.setdefault(past.round_number if about is None else about, []).append(row)
        numbers = [past.round_number for past in late]
        self._rounds = {n: _Round(n, past.samples, used.get(n, ()), task.is_normalized) for n, past in zip(numbers, late, strict=True)}
        self._rounds[task.round_number] = self.now
        self._round_by_id = {id: one.number for one in self._rounds.values() for id in one.by_id}
        self.left_out = Counter[str]()
        self.normalized = Counter[str]()
        self.unusable: dict[str, str] = {}
        self.elsewhere: dict[str, str] = {}
        self._entries: list[Entry] = []
        self._rows = 0

    # -- row by row ---------------------------------------------------------------------------------------------------

    def add(self, place: str, where: str, found: dict[str, Any] | BadRow | str) -> None:
        """A row, or what is wrong with it, or why it holds no label. where: its file and place. Raises UserError for a wrong one, unless
        such rows are skipped."""
        self._rows += 1
        try:
            if isinstance(found, BadRow):
                raise found
            read = found if isinstance(found, str) else self._read(place, where, found)
        except BadRow as error:
            self._refuse(place, where, str(error))
            return
        if isinstance(read, Entry):
            self._entries.append(read)
            return
        self.left_out[read] += 1
        if read == ANOTHER_ROUND:
            self.elsewhere[place] = read

    def _refuse(self, place: str, where: str, why: str) -> None:
        if self.config.bad_rows == "refuse":
            to_do = "correct or remove the line, or set labeler.bad_rows=skip to leave such rows out and count them"
            raise UserError(f"{place} cannot be used: {why}", where, to_do)
        self.left_out[CANNOT_BE_USED] += 1
        self.unusable[place] = why

    def _read(self, place: str, where: str, row: dict[str, Any]) -> Entry | str:
        """The comparison, or the reason to leave it out."""
        form = check(row)
        read = self._from_ids(form) if isinstance(form, ByIds) else self._from_texts(row, form)
        if isinstance(read, str):
            return read
        about, pair, sides = read
        confidence = 0.5 if pair.tie and form.confidence is not None else form.confidence
        pair = replace(pair, rater=form.rater or "", labeled_at=form.labeled_at or "")
        pair = replace(pair, confidence=confidence, shown_first=form.shown_first or "")
        return Entry(about, pair, sides, place, where, self._rows)

    def _from_ids(self, form: ByIds) -> tuple[_Round, Comparison, Sides] | str:
        rounds = {self._round_of(id) for id in (form.chosen_id, form.rejected_id)}
        if form.round is not None:
            rounds.add(form.round)
        if len(rounds) > 1:
            raise BadRow(f"it is about several rounds: {', '.join(map(str, sorted(rounds)))}")
        if form.chosen_id == form.rejected_id:
            raise BadRow("chosen_id and rejected_id are the same")
        about = self._rounds.get(rounds.pop())
        if about is None:
            return ANOTHER_ROUND
        if any(parse_answer_id(id) for id in (form.chosen_id, form.rejected_id)):
            return self._from_duel(about, form)
        if missing := [id for id in (form.chosen_id, form.rejected_id) if id not in about.by_id]:
            raise BadRow(f"there is no sample {shown(missing[0])}")
        chosen, rejected = about.by_id[form.chosen_id], about.by_id[form.rejected_id]
        if chosen.prompt_id != rejected.prompt_id:
            raise BadRow("the two samples answer different prompts")
        if (chosen.completion, chosen.finished) == (rejected.completion, rejected.finished):
            return EQUAL_TEXTS
        return about, *self._compare(about, chosen, rejected, form.tie)

    def _from_duel(self, about: _Round, form: ByIds) -> tuple[_Round, Comparison, Sides] | str:
        """A row about answers of two policies. Those of earlier rounds are measured already."""
        if about is not self.now:
            return ANOTHER_ROUND
        sides = self._duels.by_ids(form.chosen_id, form.rejected_id)
        if not sides:
            return NO_DUEL
        chosen, rejected = sides
        is_equal = (chosen.completion, chosen.finished) == (rejected.completion, rejected.finished)
        return EQUAL_TEXTS if is_equal else self._measure(chosen, rejected, form.tie)

    def _measure(self, chosen: Sample, rejected: Sample, tie: bool) -> tuple[_Round, Comparison, Sides]:
        pair, sides = self._compare(self.now, chosen, rejected, tie)
        return self.now, replace(pair, picked=WIN_RATE), sides

    def _round_of(self, id: str) -> int:
        if id in self._round_by_id:
            return self._round_by_id[id]
        found = round_of(id)
        if found is None or (found in self._rounds and not parse_answer_id(id)):
            raise BadRow(f"there is no sample {shown(id)}")
        return found

    def _from_texts(self, row: dict[str, Any], form: ByTexts) -> tuple[_Round, Comparison, Sides] | str:
        """The text of one of this round's samples stands for that sample."""
        if form.round is None and "{round}" not in str(self.config.path):
            raise BadRow('it does not say which round it is for: add "round": N, or have {round} in labeler.path')
        pair = self._with_normal_prompt(parse_row(row))
        about = self.now if form.round is None else self._rounds.get(form.round)
        if about is None:
            return ANOTHER_ROUND
        chosen, rejected = about.find(pair.prompt_id, pair.chosen), about.find(pair.prompt_id, pair.rejected)
        if chosen and rejected:
            if chosen[0].completion == rejected[0].completion:
                return EQUAL_TEXTS
            return about, self._compare(about, chosen[0], rejected[0], pair.tie)[0], [(a.id, b.id) for a in chosen for b in rejected]
        if about is self.now and (sides := self._duels.by_texts(pair)):
            return self._measure(*sides, pair.tie)
        pair = self._with_normal_answers(pair)
        text, other = pair.chosen, pair.rejected
        if pair.tie and pair.rejected < pair.chosen:  # neither is better, so the order must not depend on who wrote the row
            pair = replace(pair, chosen=pair.rejected, rejected=pair.chosen)
        pair = replace(pair, generation=about.number, labeler="preferences-file", heldout=self.split.holds_out(pair.prompt))
        return about, pair, [(_content([pair.prompt, text, about.number]), _content([pair.prompt, other, about.number]))]

    def _with_normal_prompt(self, pair: Comparison) -> Comparison:
        """The pair with the prompt, and so the prompt's id, that the data stage would make of it."""
        if not self.is_normalized:
            return pair
        prompt = normalize_prompt(pair.prompt, self.normalized)
        return replace(pair, prompt=prompt, prompt_id=content_id(prompt))

    def _with_normal_answers(self, pair: Comparison) -> Comparison:
        """The same for answers that are not samples of the run. Raises BadRow if nothing is left to compare."""
        if not self.is_normalized:
            return pair
        chosen, rejected = normalize(pair.chosen, self.normalized), normalize(pair.rejected, self.normalized)
        check_pair(Pair(pair.prompt, chosen, rejected))
        return replace(pair, chosen=chosen, rejected=rejected)

    def _compare(self, about: _Round, chosen: Sample, rejected: Sample, tie: bool) -> tuple[Comparison, Sides]:
        if tie and about.order[rejected.id] < about.order[chosen.id]:
            chosen, rejected = rejected, chosen
        return compare(chosen, rejected, self.split, "preferences-file", tie), [(chosen.id, rejected.id)]

    # -- all rows -----------------------------------------------------------------------------------------------------

    def labels(self) -> Labels:
        """The comparisons of all rows so far, in the order of the samples, and what was left out. Raises UserError as `add` does."""
        said = [entry for votes in self._votes() for entry in self._one_verdict(votes)]
        kept = [entry for entry in said if not entry.round.has_used(entry.pair)]
        self.left_out[USED_EARLIER] += len(said) - len(kept)
        kept.sort(key=lambda entry: (entry.round.number, self._place_of(entry), entry.pair.rater, entry.rank))
        unmatched = self.unusable if kept else self.unusable | self.elsewhere  # where nothing fits, all that does not is to be seen
        metrics: dict[str, Any] = {"unmatched": dict(list(unmatched.items())[:SHOWN_ROWS])} if unmatched else {}
        if late := sum(entry.round is not self.now for entry in kept):
            metrics |= {"late": late}
        if self.normalized:
            metrics |= {"normalized": dict(self.normalized)}
        rows, wins = ([entry.pair for entry in kept if (entry.pair.picked == WIN_RATE) == is_win] for is_win in (False, True))
        return Labels(rows, +self.left_out, metrics, wins)

    def _votes(self) -> list[list[Entry]]:
        """All rows by which one rater speaks of one pair. Rows with ids come first: a text may stand for several samples."""
        groups: dict[Said, list[Entry]] = {}
        for entry in sorted(self._entries, key=lambda entry: (len(entry.sides) > 1, entry.rank)):
            names = [(entry.pair.rater, frozenset(side)) for side in entry.sides]
            votes: list[Entry] = next((groups[name] for name in names if name in groups), [])
            for name in names:
                groups.setdefault(name, votes)
            votes.append(entry)
        return list({id(votes): votes for votes in groups.values()}.values())

    def _one_verdict(self, votes: list[Entry]) -> list[Entry]:
        """The row that says what this rater says of this pair, as a list of one; empty if the rows contradict each other."""
        first = votes[0]
        agree = [vote for vote in votes if self._agree(first, vote)]
        if len(agree) < len(votes):
            latest = max(vote.pair.labeled_at for vote in votes)
            last = [vote for vote in votes if vote.pair.labeled_at == latest]
            timed = all(vote.pair.labeled_at for vote in votes) and all(self._agree(last[0], vote) for vote in last)
            if not timed:
                self._contradiction(sorted(votes, key=lambda vote: vote.number))
                return []
            self.left_out[REPLACED] += len(votes) - len(last)
            agree = last
        self.left_out[SAID_BEFORE] += len(agree) - 1
        return agree[:1]

    def _agree(self, one: Entry, other: Entry) -> bool:
        if one.pair.tie or other.pair.tie:
            return one.pair.tie == other.pair.tie
        return bool(set(one.sides) & set(other.sides))

    def _contradiction(self, votes: list[Entry]) -> None:
        """Several verdicts of one rater on one pair. Without times, none of them is the right one."""
        first = votes[0]
        second = next(vote for vote in votes if not self._agree(first, vote))
        why = f"{first.place} gives another verdict on the same two; if two people judged, name them in rater"
        for vote in [second] + [vote for vote in votes if vote is not second]:
            self._refuse(vote.place, vote.where, why if vote is second else "another row of the same rater contradicts it")

    def _place_of(self, entry: Entry) -> tuple[Any, ...]:
        """Where a pair stands in its round: samples in their order, and texts of other origin behind them."""
        pair = entry.pair
        if pair.chosen_id:
            return (0, *sorted((entry.round.order[pair.chosen_id], entry.round.order[pair.rejected_id])), "", "", "")
        return (1, 0, 0, _content([pair.prompt]), *sorted((pair.chosen, pair.rejected)))


def _content(texts: list[Any]) -> str:
    return json.dumps(texts, ensure_ascii=False, sort_keys=True)
