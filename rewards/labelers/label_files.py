"""Label files of all formats, as rows of one form (label_rows.py). Every row of a file comes out, with its place, or with what is wrong.

    .jsonl, .json, .csv    rows as `label_rows.py` describes them; each also as .gz
    Label Studio           its JSON export: tasks with `annotations`, whose results are of the tags Pairwise or Choices; and its exports
                           JSON_MIN and CSV: one row for each annotation, with the task's data and a column with the name of the tag
    Argilla                records as `to_json` and `to_list` write them, with answers to a label question or a ranking question

The exports carry the two completions in one of these forms, in `data` (Label Studio) or in `fields` and `metadata` (Argilla): `ids`, a list
of two samples' ids, as in `select/to_label.jsonl`; `first_id` and `second_id`; or `prompt` and two texts whose names differ in their last
letter only, such as answer1 and answer2, or response_a and response_b.
"""

import csv
import glob
import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.judging import LabelerConfig
from rewards.data.json_lines import try_json, try_json_lines
from rewards.data.unpacking import file_kind, opened
from rewards.data.unusable import BadLine, BadRow
from rewards.labelers.label_rows import shown

WANTED = "wanted.jsonl"
"""Where a labeler asks people about certain pairs: these pairs, in the checkpoints of the label stage."""
NOT_LABELED = "not labeled yet"
SKIPPED = "skipped by the rater"

Row = dict[str, Any]
Found = Row | BadRow | str
"""A row, or what is wrong with it, or the reason why it holds no label."""

OF_AN_ANNOTATION = {"annotator", "annotation_id"}
"""The columns that tell Label Studio's JSON_MIN and CSV exports."""
SIDES = ({"first", "left", "a", "1"}, {"second", "right", "b", "2"})
TIES = {"tie", "equal", "same", "both", "neither", "none", "none,none"}
"""What raters' forms call the sides, beside the names of the texts themselves, and what they call a tie."""


def find_path(config: LabelerConfig, round_number: int) -> Path:
    """Where the labels of a round are expected. It may be a pattern such as labels/*.jsonl. `~` is the user's own folder: a shell leaves it
    as it is in `labeler.path=~/labels.jsonl`."""
    return Path(str(config.path).replace("{round}", str(round_number))).expanduser()


def find_files(path: Path) -> list[Path]:
    """The label files that are there, by name: those that fit a pattern, or the one file."""
    files = [Path(name) for name in sorted(glob.glob(str(path)))] if glob.has_magic(str(path)) and not path.exists() else [path]
    return [file for file in files if file.exists()]


def read_labels(path: Path) -> Iterator[tuple[str, Found]]:
    """Yields the place of each row, and what is there. Raises UserError if the file as a whole cannot be read."""
    for place, found in _rows(path):
        if isinstance(found, dict) and isinstance(found.get("annotations"), list) and isinstance(found.get("data"), dict):
            yield from _label_studio(place, found)
        elif isinstance(found, dict) and found.keys() >= OF_AN_ANNOTATION:
            yield place, _from_flat(found)
        elif isinstance(found, dict) and isinstance(found.get("responses"), dict) and isinstance(found.get("fields"), dict):
            yield from _argilla(place, found)
        else:
            yield place, found


def _rows(path: Path) -> Iterator[tuple[str, Row | BadRow]]:
    kind = file_kind(path.name)
    if kind == "csv":
        yield from _csv(path)
        return
    for place, row in try_json(path) if kind == "json" else try_json_lines(path):
        yield place, BadRow(row.what.replace(f"{place} is", "it is", 1)) if isinstance(row, BadLine) else row


def _csv(path: Path) -> Iterator[tuple[str, Row | BadRow]]:
    """The rows of a CSV file. An empty cell is no value. A row that is broken over several lines may have swallowed others, so the file is
    refused."""
    csv.field_size_limit(sys.maxsize)
    with opened(path) as file:
        text = file.read().decode("utf-8-sig", errors="surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = next(reader, [])
        before = reader.line_num
        for cells in reader:
            place, lines, before = f"line {reader.line_num}", reader.line_num - before, reader.line_num
            if not cells:
                continue
            problem = _csv_problem(columns, cells)
            if problem and lines > 1 and len(cells) != len(columns):
                raise UserError(
                    f"{place} {problem}, and it began {lines - 1} lines before", f"{path}, {place}", "look for a quote that is not closed"
                )
            yield (
                place,
                BadRow(problem) if problem else {name: _cell(name, cell) for name, cell in zip(columns, cells, strict=True) if cell},
            )
    except csv.Error as error:
        raise UserError(f"the file is not CSV: {error}", f"{path}, after line {reader.line_num}", "correct the file") from None


def _csv_problem(columns: list[str], cells: list[str]) -> str:
    if len(set(columns)) < len(columns):
        return "is in a file that has a column twice"
    if len(cells) != len(columns):
        return f"has {len(cells)} cells, but there are {len(columns)} columns"
    if any("\0" in cell for cell in cells):
        return "has NUL characters"
    if any("\udc80" <= letter <= "\udcff" for cell in cells for letter in cell):
        return "is not UTF-8 text"
    return ""


def _cell(column: str, cell: str) -> Any:
    """The value of a cell. Text that does not fit the column stays text, and `label_rows.check` refuses it."""
    if column == "tie":
        return {"true": True, "false": False}.get(cell.lower(), cell)
    if column == "round" and cell.isascii() and cell.isdigit() and len(cell) < 10:
        return int(cell)
    if column in ("confidence", "score_chosen", "score_rejected"):
        with suppress(ValueError):
            return float(cell)
    return cell


def _label_studio(place: str, task: Row) -> Iterator[tuple[str, Found]]:
    """The annotations of one task."""
    if not task["annotations"]:
        yield place, NOT_LABELED
    for number, annotation in enumerate(task["annotations"], 1):
        where = f"{place}, annotation {number}" if len(task["annotations"]) > 1 else place
        try:
            if not isinstance(annotation, dict):
                raise BadRow("an annotation is not an object")
            yield where, SKIPPED if annotation.get("was_cancelled") is True else _from_annotation(task["data"], annotation)
        except BadRow as error:
            yield where, error


def _from_annotation(data: Row, annotation: Row) -> Row:
    results = annotation.get("result")
    values = [one.get("value") for one in results if isinstance(one, dict)] if isinstance(results, list) else []
    said = [value for value in values if isinstance(value, dict)]
    choices = [str(value["selected"]) for value in said if "selected" in value]
    choices += [str(choice) for value in said if isinstance(value.get("choices"), list) for choice in value["choices"]]
    rater = annotation.get("completed_by")
    if isinstance(rater, dict):
        rater = rater.get("email") or rater.get("id")
    at = annotation.get("updated_at") or annotation.get("created_at")
    return _Pair(data, data).row(choices, None if rater is None else str(rater), at)


def _from_flat(row: Row) -> Row | BadRow:
    """A row of JSON_MIN or CSV. In CSV, lists are JSON in a cell. Its form says nothing of skipped annotations, which it leaves out.

    Source: Label Studio's guide, "Export annotations", and its converter: the data, then each tag by its name, where a single choice is its
    text, and any other result a list of objects. A text of one letter is not taken for a choice, because data may have such columns.
    """
    rater, at = row["annotator"], row.get("updated_at") or row.get("created_at")
    if isinstance(rater, dict):
        rater = rater.get("email") or rater.get("id")
    try:
        texts = row | {name: _unpacked(row[name]) for name in ("prompt", "ids") if name in row}
        pair = _Pair(texts, texts)
        tags = [_unpacked(value) for name, value in row.items() if name not in OF_AN_ANNOTATION | {"id", "ids", "prompt", *pair.columns}]
        results = [one for value in tags if isinstance(value, list) for one in value if isinstance(one, dict)]
        choices = [str(one["selected"]) for one in results if "selected" in one]
        choices += [str(choice) for one in results if isinstance(one.get("choices"), list) for choice in one["choices"]]
        choices = choices or [name for value in tags if isinstance(value, str) and len(value) > 1 for name in pair.named_in(value)]
        return pair.row(choices, None if rater is None else str(rater), at)
    except BadRow as error:
        return error


def _unpacked(value: Any) -> Any:
    """The list of objects or of texts that a cell of CSV has as JSON, or the value as it is."""
    if isinstance(value, str) and value.startswith("["):
        with suppress(ValueError, RecursionError):
            found = json.loads(value)
            if found and all(isinstance(one, dict | str) for one in found):
                return found
    return value


def _argilla(place: str, record: Row) -> Iterator[tuple[str, Found]]:
    """The responses to one record. A question whose answers name no side, such as a rating, is not about the pair."""
    metadata = record.get("metadata")
    answers = [(rater, value) for said in record["responses"].values() if isinstance(said, list) for rater, value in _responses(said)]
    if not answers:
        yield place, NOT_LABELED
        return
    try:
        pair = _Pair(record["fields"], metadata if isinstance(metadata, dict) else {})
    except BadRow as error:
        yield place, error
        return
    by_rater: dict[str | None, list[str]] = {}
    for rater, value in answers:
        by_rater.setdefault(rater, []).extend(pair.named_in(value))
    for rater, choices in by_rater.items():
        where = f"{place}, {rater}" if len(by_rater) > 1 else place
        try:
            yield where, pair.row(choices, rater, None)
        except BadRow as error:
            yield where, error


def _responses(said: list[Any]) -> Iterator[tuple[str | None, Any]]:
    for one in said:
        if isinstance(one, dict) and one.get("status", "submitted") == "submitted":
            rater = one.get("user_id")
            yield None if rater is None else str(rater), one.get("value")


class _Pair:
    """The two completions that a rater was shown. Raises BadRow if `texts` and `ids` do not say which they are."""

    def __init__(self, texts: Row, ids: Row):
        self.common = {name: source[name] for source in (texts, ids) for name in ("round",) if name in source}
        given = ids.get("ids") or [ids.get("first_id"), ids.get("second_id")]
        stems = sorted({name[:-1] for name in texts if re.search("[1a]$", name)})
        named = [[stem + end for end in ends] for stem in stems for ends in ("12", "ab")]
        pairs = [names for names in named if all(isinstance(texts.get(name), str | list) for name in names)]
        self.columns = [name for names in pairs for name in names]
        self.names = [{names[side].casefold() for names in pairs} for side in (0, 1)]
        if isinstance(given, list) and len(given) == 2 and all(given):
            self.sides, self.key = given, "_id"
        elif len(pairs) > 1:
            raise BadRow(
                f"{' and '.join(pairs[0])} could be the two texts, and so could {' and '.join(pairs[1])}: give ids, or leave one out"
            )
        elif pairs and "prompt" in texts:
            self.sides, self.key = [texts[name] for name in pairs[0]], ""
            self.common["prompt"] = texts["prompt"]
        else:
            raise BadRow("it does not say which two completions were shown: give ids, or prompt and two texts such as answer1 and answer2")

    def named_in(self, value: Any) -> list[str]:
        """The side that an answer names, or a tie, as a list of one; empty for an answer to another question."""
        if isinstance(value, str):
            return [value] if self._side(value) is not None else []
        if isinstance(value, list) and value:
            ranked = [(one.get("rank"), one.get("value")) if isinstance(one, dict) else (place, one) for place, one in enumerate(value)]
            names = [(rank, name) for rank, name in ranked if isinstance(rank, int) and isinstance(name, str)]
            if len(names) == len(value):
                first = min(rank for rank, _ in names)
                best = [name for rank, name in names if rank == first]
                return ["tie"] if len(best) > 1 else best
        return []

    def row(self, choices: list[str], rater: str | None, at: Any) -> Row:
        """The label, given what one rater chose. Raises BadRow if that is not one clear choice."""
        sides = {self._side(choice) for choice in choices}
        if len(sides) != 1 or None in sides:
            raise BadRow(f"the choice is {shown(choices)}, which is not one of left, right and tie" if choices else "it holds no choice")
        side = sides.pop()
        chosen = 1 if side == 1 else 0
        row = self.common | {f"chosen{self.key}": self.sides[chosen], f"rejected{self.key}": self.sides[1 - chosen], "tie": side == "tie"}
        row |= {"shown_first": "rejected" if chosen else "chosen"}
        return row | ({"rater": rater} if rater else {}) | ({"labeled_at": at} if at else {})

    def _side(self, name: str) -> int | str | None:
        """0 and 1 are the sides, "tie" is a tie, None is none of them."""
        name = name.casefold().strip()
        if name in TIES:
            return "tie"
        return next((side for side in (0, 1) if name in SIDES[side] or name in self.names[side]), None)
