"""10,000 label imports with planted faults: each row is accounted for exactly once, or refused with its number. Never a traceback.

What has to come out is known from how an import is made: a row is planted with its meaning, or as one that cannot be used. The code under
test is never asked. Rows are doubled, put in another order, spread over files, cut off, given wrong types, unknown ids, NULs and halves of
surrogate pairs; raters disagree with each other and with themselves; files have CRLF, byte order marks and blank lines.
"""

import codecs
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from configs import UserError
from configs.errors import WaitingForLabels
from rewards.comparisons import Sample
from rewards.labelers.matching import ANOTHER_ROUND, CANNOT_BE_USED, SAID_BEFORE
from rewards.labelers.preferences_file import compare_by_file
from tests.unit.rewards.labelers.tasks import file_task

ROUND, IMPORTS = 1, 10_000

Pair = tuple[str, frozenset[str]]
"""Rater, and the ids of two samples."""


def name(p: int, k: int, round_number: int = ROUND) -> str:
    return f"{round_number}-{round_number}-p-{p}-{k}"


SAMPLES = [Sample(name(p, k), f"p-{p}", f"prompt {p}", f"answer {p} {k}", True, ROUND, k) for p in range(3) for k in range(3)]


@dataclass
class Case:
    """An import as rows of bytes, and what each row means: a vote, a row of another round, or a row that cannot be used."""

    rows: list[tuple[bytes, str, Any]] = field(default_factory=list)
    """What is written; "vote", "another" or "bad"; of a vote (rater, pair, the better id or "")."""

    def votes(self) -> dict[Pair, Counter[str]]:
        said: dict[Pair, Counter[str]] = {}
        for _, kind, meaning in self.rows:
            if kind == "vote":
                said.setdefault(meaning[:2], Counter())[meaning[2]] += 1
        return said


def vote(rng: random.Random) -> tuple[bytes, str, Any]:
    p, (a, b) = rng.randrange(3), rng.sample(range(3), 2)
    tie, rater = rng.random() < 0.3, rng.choice(["", "ann", "bob", "สมชาย"])
    row = {"chosen_id": name(p, a), "rejected_id": name(p, b), "tie": tie, "rater": rater}
    if rng.random() < 0.2:
        row["comment"] = rng.choice(["\u2028", "\U0001f600", "ำ", None, [1, {"a": "b"}]])
    items = list(row.items())
    rng.shuffle(items)
    line = json.dumps(dict(items), ensure_ascii=rng.random() < 0.5).encode()
    return line, "vote", (rater, frozenset((name(p, a), name(p, b))), "" if tie else name(p, a))


def another(rng: random.Random) -> tuple[bytes, str, Any]:
    return json.dumps({"chosen_id": name(0, 0, 4), "rejected_id": name(0, 1, 4)}).encode(), "another", None


def bad(rng: random.Random) -> tuple[bytes, str, Any]:
    """A row that nobody can use, by one fault in a good one."""
    line, _, _ = vote(rng)
    row = json.loads(line)
    key = rng.choice(["chosen_id", "rejected_id"])
    faults = [
        lambda: line[: rng.randint(1, len(line) - 1)],
        lambda: json.dumps(row | {key: rng.choice([None, 7, True, [], {}, "", "1-1-p-9-0", "nobody", row["chosen_id"] + " "])}).encode(),
        lambda: json.dumps(row | {"tie": rng.choice(["true", 0, None, [], "นี่"])}).encode(),
        lambda: json.dumps(row | {"rater": rng.choice([7, [], True])}).encode(),
        lambda: json.dumps(row | {rng.choice(["winner", "choosen_id", "TIE"]): 1}).encode(),
        lambda: json.dumps({k: v for k, v in row.items() if k != key}).encode(),
        lambda: json.dumps(row | {"round": rng.choice([0, 2, "1", -1, 1.0, True])}).encode(),
        lambda: json.dumps(row | {"confidence": rng.choice([2, -0.5, "sure"])}).encode(),
        lambda: json.dumps(row | {"rejected_id": row["chosen_id"]}).encode(),
        lambda: json.dumps(row | {"chosen_id": name(0, 0), "rejected_id": name(1, 0)}).encode(),
        lambda: (
            line[:-1] + rng.choice([b', "comment": "a\0b"}', b', "comment": "\\ud800"}', b', "comment": "\xff"}', b', "comment": NaN}'])
        ),
        lambda: rng.choice([b"[]", b"null", b"x", b"{}", b'"', b"{" * 50, b"\xff\xfe", b"\0", b'{"tie": false, "tie": true}']),
    ]
    return rng.choice(faults)(), "bad", None


def make(rng: random.Random) -> Case:
    """A few rows of each kind, some of them twice or more, in any order."""
    case = Case()
    for _ in range(rng.randint(1, 6)):
        kind = rng.choices([vote, another, bad], [8, 1, rng.choice([0, 2])])[0]
        case.rows += [kind(rng)] * rng.choice([1, 1, 1, 2, 3])
    rng.shuffle(case.rows)
    return case


def write(case: Case, rng: random.Random, folder: Path) -> tuple[str, dict[str, int]]:
    """Write the rows into one file or several, with any line ends.

    Returns the pattern that reads them all, and the number of each row by its place as messages name it.
    """
    cuts = sorted(rng.sample(range(1, len(case.rows)), min(rng.choice([0, 0, 1, 2]), len(case.rows) - 1)))
    places = {}
    for part, (start, stop) in enumerate(zip([0, *cuts], [*cuts, len(case.rows)], strict=True)):
        name = f"{len(cuts)}-{part}.jsonl"
        end = rng.choice([b"\n", b"\r\n", b"\n\n", b"\r\n \r\n"])
        content, line = codecs.BOM_UTF8 * rng.choice([0, 1]), 1
        for number in range(start, stop):
            places[f"{name}, line {line}" if cuts else f"line {line}"] = number
            content, line = content + case.rows[number][0] + end, line + end.count(b"\n")
        if rng.random() < 0.3:
            content = content[: -len(end)]
        (folder / name).write_bytes(content)
    return f"{folder}/{len(cuts)}-*.jsonl", places


def said_by(case: Case) -> tuple[list[Any], Counter[str], set[int]]:
    """The comparisons that have to come out, what is left out, and the rows that cannot be used, by their numbers."""
    votes = case.votes()
    torn = {pair for pair, said in votes.items() if len(said) > 1}
    unusable = {n for n, (_, kind, meaning) in enumerate(case.rows) if kind == "bad" or (kind == "vote" and meaning[:2] in torn)}
    left_out = Counter({CANNOT_BE_USED: len(unusable), ANOTHER_ROUND: sum(kind == "another" for _, kind, _ in case.rows)})
    left_out[SAID_BEFORE] = sum(said.total() - 1 for pair, said in votes.items() if pair not in torn)
    comparisons = [(*pair, next(iter(said))) for pair, said in votes.items() if pair not in torn]
    return sorted(comparisons, key=in_order), +left_out, unusable


def in_order(meaning: Any) -> Any:
    return meaning[0], sorted(meaning[1]), meaning[2]


def read(pattern: str, bad_rows: str) -> Any:
    return compare_by_file(file_task(SAMPLES, pattern, ROUND, bad_rows=bad_rows))


def check(seed: int, folder: Path) -> str:
    """Make the import of a seed and read it. Returns what happened."""
    rng = random.Random(f"import {seed}")
    case = make(rng)
    pattern, places = write(case, rng, folder)
    comparisons, left_out, unusable = said_by(case)
    try:
        found = read(pattern, "skip" if seed % 2 else "refuse")
    except UserError as error:
        place = next(place for place in places if error.what.startswith(f"{place} "))
        assert seed % 2 == 0 and places[place] in unusable and error.where.endswith(place), f"import {seed}: {error}"
        return "refused"
    except WaitingForLabels as waiting:
        assert not comparisons and (seed % 2 or not unusable), f"import {seed}: {waiting}"
        return "nothing to use"
    got = [(row.rater, frozenset((row.chosen_id, row.rejected_id)), "" if row.tie else row.chosen_id) for row in found.comparisons]
    assert (sorted(got, key=in_order), found.left_out, found.rows) == (comparisons, left_out, len(case.rows)), f"import {seed}"
    assert {places[place] for place in found.metrics.get("unmatched", {})} == unusable and (seed % 2 or not unusable), f"import {seed}"
    if seed % 5 == 0:
        rng.shuffle(case.rows)
        assert read(write(case, rng, folder)[0], "skip").comparisons == found.comparisons, f"import {seed}, in another order"
    return "read"


@pytest.mark.slow
def test_10_000_imports(tmp_path):
    counts = Counter(check(seed, tmp_path) for seed in range(IMPORTS))
    print(dict(counts))
    assert counts.total() == IMPORTS and counts["refused"] > 1000 and counts["read"] > 5000
