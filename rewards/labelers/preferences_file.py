"""Comparisons that people or other programs wrote into a file of JSON lines (`labeler.kind: preferences-file`). Every line is checked.

A line names two samples (`ByIds`) or gives whole texts (`ByTexts`). Every line is either used, or counted under the reason why it is
not used, or refused with its number. No line is ignored silently, and none is counted twice. The reasons are:

    about another round     the line names samples of another round, or says `"round": N`; one file may serve all rounds
    said before             the same rater has given the same verdict on the same two completions in an earlier line
    about two equal texts   the policy wrote the same text twice, so there is nothing to compare

Two raters may disagree. A rater who gives two different verdicts on one pair is refused.
"""

import difflib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from configs.errors import UserError, WaitingForLabels
from configs.schema import LabelerConfig
from rewards.comparisons import Comparison, Sample, round_of
from rewards.data.json_lines import read_json_lines
from rewards.data.rows import BadRow, parse_row
from rewards.data.splits import Split, content_id
from rewards.labelers.labels import Labels, LabelTask
from rewards.labelers.pairs import compare

ANOTHER_ROUND = "about another round"
SAID_BEFORE = "said before"
EQUAL_TEXTS = "about two equal texts"
SHOWN_CHARACTERS = 60
"""How much of a wrong value a message shows."""


class LabelRow(BaseModel):
    """The keys that every line may have. Types are strict: "false" is not false and 7 is not "7"."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    tie: bool = False
    rater: str | None = None
    labeled_at: str | None = None
    round: Annotated[int, Field(ge=0)] | None = None
    comment: Any = None
    """A note for people, which is not read. Any other unknown key is refused, because it may be a misspelt one."""


class ByIds(LabelRow):
    """A line that names two samples by their ids."""

    chosen_id: str
    rejected_id: str


class ByTexts(LabelRow):
    """A line that gives whole texts, in the forms that `rows.parse_row` knows and checks."""

    prompt: Any = None
    chosen: Any
    rejected: Any
    score_chosen: Any = None
    score_rejected: Any = None
    source: str | None = None


LEGAL_KEYS = tuple(ByIds.model_fields | ByTexts.model_fields)
WANTED = {"bool_type": "true or false", "string_type": "a string", "int_type": "a whole number", "greater_than_equal": "0 or more"}
"""pydantic's kinds of error -> what is expected, in the words of JSON."""


def label(task: LabelTask) -> Labels:
    """The file's comparisons for this round. Labels that bring their own texts are left out if these are longer than the token limits."""
    found = compare_by_file(task.samples, task.config, task.split, task.round_number, task.samples_file)
    own_texts = [row for row in found.comparisons if not row.chosen_id]  # samples are never too long
    if not own_texts:
        return found
    limits = task.get_limits()
    kept = [row for row in found.comparisons if row.chosen_id or limits.excess(row) is None]
    too_long = limits.keep(own_texts)[1]
    if not kept:
        raise limits.nothing_left("comparisons", str(task.config.path), too_long)
    return Labels(kept, found.left_out + too_long)


def compare_by_file(samples: Sequence[Sample], config: LabelerConfig, split: Split, round_number: int, samples_path: Path) -> Labels:
    """The file's comparisons for this round, in the order of its lines.

    Raises WaitingForLabels while the file does not exist or has nothing for this round. Raises UserError with the line's number if a line
    cannot be used.
    """
    path = Path(str(config.path).replace("{round}", str(round_number)))
    if not path.exists():
        raise WaitingForLabels(_ask(path, samples_path, "there is no such file yet"))
    reader = _Reader(samples, config, split, round_number)
    for place, row in read_json_lines(path):
        try:
            reader.add(place, row)
        except BadRow as error:
            raise UserError(f"{place} cannot be used: {error}", f"{path}, {place}", "correct or remove the line") from None
    if not reader.found.comparisons:
        others = "".join(f" ({count} x {why})" for why, count in reader.found.left_out.items())
        raise WaitingForLabels(_ask(path, samples_path, f"it has no comparison for this round{others}"))
    return reader.found


Sides = list[tuple[str, str]]
"""Names of the better and the other completion of a row. There are several pairs of names if the run has sampled a text more than once."""


class _Reader:
    """Adds line after line to `found`. Raises BadRow for a line that cannot be used."""

    def __init__(self, samples: Sequence[Sample], config: LabelerConfig, split: Split, round_number: int):
        self.config, self.split, self.round = config, split, round_number
        self.found = Labels()
        self._by_id = {sample.id: sample for sample in samples}
        self._by_text: dict[tuple[str, str], list[Sample]] = {}
        for sample in sorted(samples, key=lambda s: not s.finished):  # if two have the same text, the finished one is meant
            self._by_text.setdefault((content_id(sample.prompt), sample.completion), []).append(sample)
        self._said: dict[tuple[str, frozenset[str]], tuple[str, str]] = {}  # (rater, sides) -> (the better side, place)

    def add(self, place: str, row: dict[str, Any]) -> None:
        form = _check(row)
        read = self._from_ids(form) if isinstance(form, ByIds) else self._from_texts(row, form)
        if isinstance(read, str):
            self.found.left_out[read] += 1
            return
        pair, sides = read
        pair = replace(pair, rater=form.rater or "", labeled_at=form.labeled_at or "")
        if self._is_said_before(place, pair, sides):
            self.found.left_out[SAID_BEFORE] += 1
        else:
            self.found.comparisons.append(pair)

    def _from_ids(self, form: ByIds) -> tuple[Comparison, Sides] | str:
        """The comparison, or the reason to leave it out."""
        rounds = {self._round_of(id) for id in (form.chosen_id, form.rejected_id)}
        if form.round is not None:
            rounds.add(form.round)
        if len(rounds) > 1:
            raise BadRow(f"it is about several rounds: {', '.join(map(str, sorted(rounds)))}")
        if form.chosen_id == form.rejected_id:
            raise BadRow("chosen_id and rejected_id are the same")
        if rounds != {self.round}:
            return ANOTHER_ROUND
        chosen, rejected = self._by_id[form.chosen_id], self._by_id[form.rejected_id]
        if chosen.prompt_id != rejected.prompt_id:
            raise BadRow("the two samples answer different prompts")
        if (chosen.completion, chosen.finished) == (rejected.completion, rejected.finished):
            return EQUAL_TEXTS
        return self._compare(chosen, rejected, form.tie), [(chosen.id, rejected.id)]

    def _round_of(self, id: str) -> int:
        if id in self._by_id:
            return self.round
        found = round_of(id)
        if found is None or found == self.round:
            raise BadRow(f"there is no sample {_shown(id)}")
        return found

    def _from_texts(self, row: dict[str, Any], form: ByTexts) -> tuple[Comparison, Sides] | str:
        """The comparison, or the reason to leave it out. The text of one of this round's samples stands for that sample."""
        if form.round is None and "{round}" not in str(self.config.path):
            raise BadRow('it does not say which round it is for: add "round": N, or have {round} in labeler.path')
        pair = parse_row(row)
        if form.round is not None and form.round != self.round:
            return ANOTHER_ROUND
        chosen, rejected = (self._by_text.get((pair.prompt_id, text), []) for text in (pair.chosen, pair.rejected))
        if chosen and rejected:
            sides = [(a.id, b.id) for a in chosen for b in rejected]
            return self._compare(chosen[0], rejected[0], pair.tie), sides
        pair = replace(pair, generation=self.round, labeler="preferences-file", heldout=self.split.holds_out(pair.prompt))
        return pair, [(_content([pair.prompt, pair.chosen]), _content([pair.prompt, pair.rejected]))]

    def _compare(self, chosen: Sample, rejected: Sample, tie: bool) -> Comparison:
        return compare(chosen, rejected, self.split, "preferences-file", tie)

    def _is_said_before(self, place: str, pair: Comparison, sides: Sides) -> bool:
        """Whether this rater gave the same verdict in an earlier line. All lines without a rater count as one person's."""
        before = False
        for better, other in sides:
            now = ("" if pair.tie else better, place)
            earlier = self._said.setdefault((pair.rater, frozenset((better, other))), now)
            if earlier[0] != now[0]:
                raise BadRow(f"{earlier[1]} gives another verdict on the same two; if two people judged, name them in rater")
            before = before or earlier[1] != place
        return before


def _check(row: dict[str, Any]) -> ByIds | ByTexts:
    for key in row:
        if key not in LEGAL_KEYS:
            near = difflib.get_close_matches(key.casefold(), LEGAL_KEYS, n=1, cutoff=0.7)
            help = f"did you mean {near[0]!r}?" if near else f"the legal ones are {', '.join(LEGAL_KEYS)}"
            raise BadRow(f"unknown key {_shown(key)}, {help}")
    ids, texts = (sorted({f"chosen{end}", f"rejected{end}"} & set(row)) for end in ("_id", ""))
    if not ids and not texts:
        raise BadRow("it names no completions: give chosen_id and rejected_id, or prompt, chosen and rejected")
    if ids and texts:
        raise BadRow(f"it has both ids and texts ({', '.join(ids + texts)}): give one of them")
    try:
        return (ByIds if ids else ByTexts).model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        name, kind = str(first["loc"][0]), first["type"]
        if kind == "missing":
            raise BadRow(f"{name} is missing") from None
        if kind == "extra_forbidden":
            raise BadRow(f"{name} does not belong beside ids") from None
        raise BadRow(f"{name} must be {WANTED.get(kind, first['msg'])}, not {_shown(first['input'])}") from None


def _content(texts: list[Any]) -> str:
    return json.dumps(texts, ensure_ascii=False, sort_keys=True)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


def _ask(path: Path, samples_path: Path, why: str) -> str:
    return (
        f"waiting for labels: {why}\n"
        f"  samples to compare: {samples_path}\n"
        f"  write comparisons to: {path}\n"
        '  one a line: {"chosen_id": "...", "rejected_id": "...", "tie": false}, with ids of the samples\n'
        "  then run the same command again"
    )
