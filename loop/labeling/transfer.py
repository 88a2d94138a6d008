"""Labels as files of other tools, and their labels as rows of the label file.

    label-studio    JSON: tasks with `data` and `annotations`, of a `Pairwise` tag, and of `Choices` where it is a tie
    argilla         JSON: records with `fields`, `metadata` and `responses` to a label question
    json, csv       the rows of the label file

`rewards/labelers/label_files.py` reads all of these back. Must never import torch or Ray.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loop.labeling.answers import TIE, AnswerFile, Conflict, PairIds, Row, pair_of
from loop.labeling.known import Known
from loop.labeling.rounds import Answer, LabelingRound, Pair
from loop.printing import printable
from rewards.comparisons import round_of
from rewards.data.rows import BadRow
from rewards.labelers.label_files import read_labels

Labeled = tuple[Pair, tuple[Answer, Answer], list[Row]]
"""A pair, its answers as they were shown, and the labels of the raters who saw them so."""
CSV_COLUMNS = ["chosen_id", "rejected_id", "tie", "rater", "labeled_at", "round", "confidence", "shown_first", "comment"]
OF_ROWS = ("json", "csv")
"""The forms that hold rows of the label file, so they need no texts."""
BAD_ROWS_SHOWN = 10


def export(asked: LabelingRound, answers: Iterable[Row], form: str) -> tuple[str, int]:
    """The labels of a round in one of `FORMS`, and how many they are.

    The tools' forms also hold the pairs that nobody has labeled. They need the texts, so they only hold labels of pairs on offer.
    """
    pairs = {pair.ids for pair in asked.pairs}
    rows = [row for row in answers if pair_of(row) in pairs or (form in OF_ROWS and _is_of_round(row, asked.number))]
    return FORMS[form](asked, rows), len(rows)


@dataclass
class Imported:
    """What became of the rows of a file: new labels, labels that were there, and rows that could not be used, by place."""

    new: int = 0
    known: int = 0
    left_out: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The same for people."""
        reasons = Counter(self.left_out.values())
        lines = [f"{self.new} labels imported, {self.known} were there already, {len(self.left_out)} rows left out"]
        lines += [f"  {count} x {why}" for why, count in reasons.most_common(BAD_ROWS_SHOWN)]
        return lines + [f"  {place}: {why}" for place, why in list(self.left_out.items())[:BAD_ROWS_SHOWN] if reasons[why] == 1]


def import_labels(asked: LabelingRound, file: Path, answers: AnswerFile) -> Imported:
    """Add the labels of a file in any form that `read_labels` knows. The same file twice adds nothing. Raises UserError if it cannot be
    read."""
    known, done = Known(asked), Imported()
    for place, found in read_labels(file):
        try:
            if not isinstance(found, dict):
                raise BadRow(str(found))
            if answers.add(known.row(found)):
                done.new += 1
            else:
                done.known += 1
        except (BadRow, Conflict) as error:
            done.left_out[place] = str(error)
    return done


def _is_of_round(row: Row, number: int) -> bool:
    return all(round_of(id) == number for id in pair_of(row))


def _shown(asked: LabelingRound, rows: list[Row]) -> list[Labeled]:
    """All pairs in order. A pair that raters saw in both orders is there twice, because a task of a tool has one order."""
    by_pair: dict[PairIds, list[Row]] = {}
    for row in rows:
        by_pair.setdefault(pair_of(row), []).append(row)
    found: list[Labeled] = []
    for pair in asked.pairs:
        orders: dict[str, list[Row]] = {}
        for row in by_pair.get(pair.ids, []):
            first = row["rejected_id"] if row.get("shown_first") == "rejected" else row["chosen_id"]
            orders.setdefault(first, []).append(row)
        for first, of_order in orders.items() or [(pair.answers[0].id, [])]:
            a, b = pair.answers
            found.append((pair, (a, b) if a.id == first else (b, a), of_order))
    return found


def _side(row: Row, left: Answer) -> str:
    return TIE if row.get("tie") else "left" if row["chosen_id"] == left.id else "right"


def _label_studio(asked: LabelingRound, rows: list[Row]) -> str:
    tasks = []
    for number, (pair, (left, right), of_pair) in enumerate(_shown(asked, rows), 1):
        data = {"prompt": pair.prompt, "answer1": left.text, "answer2": right.text, "ids": [left.id, right.id], "round": asked.number}
        annotations = []
        for row in of_pair:
            side = _side(row, left)
            value: Row = {"choices": [TIE]} if side == TIE else {"selected": side}
            result = {"from_name": "better", "to_name": "answer1", "type": "choices" if side == TIE else "pairwise", "value": value}
            annotations.append({"completed_by": {"email": row.get("rater") or ""}, "created_at": row.get("labeled_at"), "result": [result]})
        tasks.append({"id": number, "data": data, "annotations": annotations})
    return _json(tasks)


def _argilla(asked: LabelingRound, rows: list[Row]) -> str:
    records = []
    for pair, (left, right), of_pair in _shown(asked, rows):
        said = {"left": "answer1", "right": "answer2", TIE: TIE}
        responses = [{"user_id": row.get("rater") or None, "value": said[_side(row, left)], "status": "submitted"} for row in of_pair]
        records.append(
            {
                "id": f"{left.id}/{right.id}",
                "status": "completed" if of_pair else "pending",
                "fields": {"prompt": pair.prompt, "answer1": left.text, "answer2": right.text},
                "metadata": {"first_id": left.id, "second_id": right.id, "round": asked.number},
                "responses": {"better": responses} if responses else {},
            }
        )
    return _json(records)


def _rows_as_json(asked: LabelingRound, rows: list[Row]) -> str:
    return _json(rows)


def _rows_as_csv(asked: LabelingRound, rows: list[Row]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row | {"tie": "true" if row.get("tie") else "false"})
    return text.getvalue()


def _json(value: Any) -> str:
    """JSON in which halves of surrogate pairs, which no encoding can write, are escape sequences."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    return printable(text) + "\n" if any("\ud800" <= letter <= "\udfff" for letter in text) else text + "\n"


FORMS: dict[str, Callable[[LabelingRound, list[Row]], str]] = {
    "label-studio": _label_studio,
    "argilla": _argilla,
    "json": _rows_as_json,
    "csv": _rows_as_csv,
}
