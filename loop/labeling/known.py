"""Which pair on offer a row of a label file is about, whether the row names samples or gives their texts.

The label stage decides the same with all samples of the run at hand (`rewards/labelers/matching.py`). Must never take a pair for labeled
that the stage does not: nobody would be asked about it again, and the run would wait for ever. Must never import torch or Ray.
"""

from collections import Counter
from collections.abc import Iterator

from loop.labeling.answers import PairIds, Row
from loop.labeling.rounds import LabelingRound, Pair
from loop.printing import printable
from rewards.comparisons import parse_answer_id
from rewards.data.normalizing import normalize, normalize_prompt
from rewards.data.rows import BadRow, parse_row
from rewards.data.splits import content_id
from rewards.labelers.label_files import read_labels
from rewards.labelers.label_rows import ByIds, check

Texts = tuple[str, frozenset[str]]
"""A prompt's id, and the texts of two answers, in no order."""


class Known:
    """The pairs on offer in a round, by what a row may call them.

    Where several pairs have the same texts, one of samples is meant before one of policies, and finished answers before others.
    """

    def __init__(self, asked: LabelingRound):
        self._asked = asked
        self._by_ids: set[PairIds] = {pair.ids for pair in asked.pairs}
        self._by_texts: dict[Texts, dict[str, str]] = {}
        self._by_normal_texts: dict[Texts, dict[str, str]] = {}
        for pair in sorted(filter(self._is_meant, asked.pairs), key=_rank):
            _enter(self._by_texts, pair.prompt_id, {answer.text: answer.id for answer in pair.answers})
            if asked.is_normalized:
                _enter(self._by_normal_texts, pair.prompt_id, {_normal(answer.text): answer.id for answer in pair.answers})

    def _is_meant(self, pair: Pair) -> bool:
        """Whether the run takes a row by texts for this pair. It looks at all samples, also at those of which no pair is on offer."""
        finished = [self._asked.meant.get((pair.prompt_id, answer.text)) for answer in pair.answers]
        if any(map(parse_answer_id, pair.ids)):
            return None in finished
        return finished == [answer.finished for answer in pair.answers]

    def row(self, found: Row) -> Row:
        """The row by ids. Raises BadRow if it is wrong, or about no pair on offer."""
        form = check(found)
        if form.round not in (None, self._asked.number):
            raise BadRow("about another round")  # the run would refuse its ids
        if isinstance(form, ByIds):
            ids, tie = (form.chosen_id, form.rejected_id), form.tie
        else:
            ids, tie = self._from_texts(found)
        if frozenset(ids) not in self._by_ids:
            raise BadRow("about no pair of this round")
        row: Row = {"chosen_id": ids[0], "rejected_id": ids[1], "tie": tie, "rater": printable(form.rater or "")}
        more = form.model_dump(include={"labeled_at", "round", "confidence", "shown_first", "comment"}, exclude_none=True)
        return row | {name: printable(value) if isinstance(value, str) else value for name, value in more.items()}

    def rows_by_texts(self) -> Iterator[Row]:
        """The labels in the round's files that give texts of pairs on offer, by ids. All other rows are left to the run."""
        for file in [*self._asked.other_files, self._asked.label_file]:
            for _, found in read_labels(file) if file.exists() else ():
                if isinstance(found, dict) and "chosen" in found and self._is_of_round(found):
                    try:
                        yield self.row(found)
                    except BadRow:
                        continue

    def _is_of_round(self, found: Row) -> bool:
        """Whether a row by texts is about this round. One that does not say so is, if each round has a file of its own."""
        number = found.get("round")
        return self._asked.has_own_file if number is None else number == self._asked.number

    def _from_texts(self, found: Row) -> tuple[tuple[str, str], bool]:
        """The ids of the two answers that a row gives, and whether it is a tie. Raises BadRow."""
        given = parse_row(found)
        match = self._by_texts.get((given.prompt_id, frozenset((given.chosen, given.rejected))))
        chosen = given.chosen
        if match is None and self._asked.is_normalized:
            prompt_id, chosen = content_id(normalize_prompt(given.prompt, Counter())), _normal(chosen)
            match = self._by_normal_texts.get((prompt_id, frozenset((chosen, _normal(given.rejected)))))
        if match is None:
            raise BadRow("about no pair of this round")
        ids = match[chosen], next(id for text, id in match.items() if text != chosen)
        return ids, given.tie


def _enter(pairs: dict[Texts, dict[str, str]], prompt_id: str, ids: dict[str, str]) -> None:
    """Add a pair, given the ids of its answers by their texts, unless its texts are equal or there is one like it."""
    if len(ids) == 2:
        pairs.setdefault((prompt_id, frozenset(ids)), ids)


def _rank(pair: Pair) -> tuple[bool, int]:
    return any(map(parse_answer_id, pair.ids)), sum(not answer.finished for answer in pair.answers)


def _normal(text: str) -> str:
    return normalize(text, Counter())
