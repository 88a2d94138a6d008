"""600 seeded mutations of valid label files: each is read as meant, or refused with the number of the line.

What has to come out is known from how a mutation is made, never from the code under test. A valid file says of each row what
it means (`Meaning`); a mutation of one row gives the file's bytes and what is left of the meanings, or the line to refuse.
`pytest -s` prints the table of kinds.
"""

import codecs
import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from configs import UserError
from configs.errors import WaitingForLabels
from rewards.comparisons import Sample
from rewards.labelers.matching import ANOTHER_ROUND, SAID_BEFORE
from rewards.labelers.preferences_file import compare_by_file
from tests.unit.rewards.labelers.tasks import file_task

ROUND, PROMPTS, COMPLETIONS, FILES_PER_KIND = 1, 6, 4, 15

Meaning = tuple[str, str, bool, str]
"""What a row says: chosen text, rejected text, whether it is a tie, rater."""


@dataclass
class Row:
    """One line: what is written and what it means. `raw` is written instead of `values` where it is given."""

    values: dict[str, Any]
    meaning: Meaning
    raw: bytes | None = None

    def line(self) -> bytes:
        return self.raw if self.raw is not None else json.dumps(self.values, ensure_ascii=False).encode()


@dataclass
class Expected:
    """Either the meanings and how many rows are left out why, or the line that is refused, or waiting."""

    meanings: list[Meaning] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    refused: int | None = None
    waits: bool = False


class Case:
    """A valid file, and the row that a mutation is about. Half of the rows name samples, half give texts."""

    def __init__(self, rng: random.Random):
        self.rng, self.end, self.name = rng, b"\n", "labels.jsonl"
        pairs = [(p, a, b) for p in range(PROMPTS) for a in range(COMPLETIONS) for b in range(COMPLETIONS) if a < b]
        self.rows = [self._row(i, *pair) for i, pair in enumerate(rng.sample(pairs, rng.randint(6, 14)))]
        self.rows[rng.randrange(len(self.rows))] = self._by_ids(*rng.choice(pairs))  # some kinds need one
        seen: dict[tuple[str, frozenset[str]], Row] = {}
        for row in self.rows:  # one verdict of a rater on a pair
            seen.setdefault((row.meaning[3], frozenset(row.meaning[:2])), row)
        self.rows = list(seen.values())

    def _row(self, i: int, p: int, a: int, b: int) -> Row:
        if i % 2:
            return self._by_ids(p, a, b)
        tie, rater = self.rng.random() < 0.3, self.rng.choice(["", "ann", "bob"])
        texts = {"prompt": f"other prompt {p}", "chosen": f"text {a}", "rejected": f"text {b}", "round": ROUND, "tie": tie, "rater": rater}
        return Row(texts, (texts["chosen"], texts["rejected"], tie, rater))

    def _by_ids(self, p: int, a: int, b: int) -> Row:
        tie, rater = self.rng.random() < 0.3, self.rng.choice(["", "ann", "bob"])
        values = {"chosen_id": name(p, a), "rejected_id": name(p, b), "tie": tie, "rater": rater}
        return Row(values, (f"answer {p} {a}", f"answer {p} {b}", tie, rater))

    def pick(self, form: str) -> int:
        """The place of a row of a form: "chosen_id", "prompt", or "tie" for any."""
        return self.rng.choice([i for i, row in enumerate(self.rows) if form in row.values])

    def accepted(self, *, without: int | None = None, **left_out: int) -> Expected:
        return Expected([row.meaning for i, row in enumerate(self.rows) if i != without], left_out)

    def content(self) -> bytes:
        return b"".join(row.line() + self.end for row in self.rows)


def name(p: int, k: int, round_number: int = ROUND) -> str:
    return f"{round_number}-{round_number}-p-{p}-{k}"


def samples() -> list[Sample]:
    return [
        Sample(name(p, k), f"p-{p}", f"prompt {p}", f"answer {p} {k}", True, ROUND, k) for p in range(PROMPTS) for k in range(COMPLETIONS)
    ]


Mutation = Callable[[Case, random.Random], Expected | None]
"""Changes the case, and says what has to come out. None: the file means what it meant."""

KINDS: dict[str, Mutation] = {}


def kind(mutation: Mutation) -> Mutation:
    KINDS[mutation.__name__] = mutation
    return mutation


def refuse_changed(form: str, change: Callable[[dict[str, Any], random.Random], Any]) -> Mutation:
    """A mutation of the values of one row, which is then refused."""

    def mutate(case: Case, rng: random.Random) -> Expected:
        i = case.pick(form)
        change(case.rows[i].values, rng)
        return Expected(refused=i + 1)

    return mutate


def refuse_bytes(form: str, change: Callable[[bytes, random.Random], bytes]) -> Mutation:
    """A mutation of the bytes of one row, which is then refused."""

    def mutate(case: Case, rng: random.Random) -> Expected:
        i = case.pick(form)
        case.rows[i].raw = change(case.rows[i].line(), rng)
        return Expected(refused=i + 1)

    return mutate


def some_id(rng: random.Random) -> str:
    return rng.choice(["chosen_id", "rejected_id"])


def misspell(values: dict[str, Any], rng: random.Random) -> None:
    """Behind the two numbers of the round, so that it cannot become another round's id."""
    key, (p, k) = some_id(rng), (rng.randrange(PROMPTS), rng.randrange(COMPLETIONS))
    wrong = [f"1-1-P-{p}-{k}", f"1-1-p-{p}{k}", f"1-1-p-{p}-{k} ", f"1-1-pp-{p}-{k}", f"1-1-p-{p + PROMPTS}-{k}", f"1-1-p-{p}-{k + 4}"]
    values[key] = rng.choice(wrong)


def with_text(row: Row, text: str) -> None:
    """`text` inside a string that means nothing to anybody but is read."""
    row.values["comment"] = f"so{text}so"


def with_raw_comment(line: bytes, json_text: bytes) -> bytes:
    return line[:-1] + b', "comment": ' + json_text + b"}"


KINDS |= {
    "misspelt id": refuse_changed("chosen_id", misspell),
    "an id of no known form": refuse_changed("chosen_id", lambda row, rng: row.update({some_id(rng): rng.choice(["", "x", "1", "p-1-2"])})),
    "null id": refuse_changed("chosen_id", lambda row, rng: row.update({some_id(rng): None})),
    "numeric id": refuse_changed("chosen_id", lambda row, rng: row.update({some_id(rng): rng.choice([0, 7, 1.5, True])})),
    "missing id": refuse_changed("chosen_id", lambda row, rng: row.pop(some_id(rng))),
    "misspelt key": refuse_changed(
        "chosen_id", lambda row, rng: row.update({rng.choice(["choosen_id", "rejectedid"]): row.pop(some_id(rng))})
    ),
    "key in capitals": refuse_changed("tie", lambda row, rng: row.update({rng.choice(["TIE", "Tie", "Ties"]): row.pop("tie")})),
    "unknown key": refuse_changed("tie", lambda row, rng: row.update({rng.choice(["is_tie", "winner", "_"]): True})),
    "one sample with itself": refuse_changed("chosen_id", lambda row, rng: row.update(rejected_id=row["chosen_id"])),
    "samples of two prompts": refuse_changed("chosen_id", lambda row, rng: row.update(chosen_id=name(0, 0), rejected_id=name(1, 1))),
    "ids and texts": refuse_changed("chosen_id", lambda row, rng: row.update(chosen="a", rejected="b")),
    "string for tie": refuse_changed("tie", lambda row, rng: row.update(tie=rng.choice(["false", "true", "False", ""]))),
    "number or null for tie": refuse_changed("tie", lambda row, rng: row.update(tie=rng.choice([0, 1, None, 0.0, []]))),
    "samples of two rounds": refuse_changed("chosen_id", lambda row, rng: row.update({some_id(rng): name(0, 3, rng.choice([0, 2, 7]))})),
    "another round than its ids": refuse_changed("chosen_id", lambda row, rng: row.update(round=rng.choice([0, 2, 10**9]))),
    "a round that is no number": refuse_changed("prompt", lambda row, rng: row.update(round=rng.choice(["1", 1.0, True, -1, [1]]))),
    "texts without a round": refuse_changed("prompt", lambda row, rng: row.pop("round")),
    "a text that is none": refuse_changed("prompt", lambda row, rng: row.update(chosen=rng.choice([None, "", " ", True, 3, {"a": "b"}]))),
    "a user's turn at the end": refuse_changed("prompt", lambda row, rng: row.update(chosen=[{"role": "user", "content": "thanks"}])),
    "Latin-1": refuse_bytes("tie", lambda line, rng: with_raw_comment(line, '"café"'.encode("latin-1"))),
    "lone surrogate": refuse_bytes(
        "tie", lambda line, rng: with_raw_comment(line, rng.choice([b'"\\ud800"', b'"\\uDFFFx"', b'"\xed\xa0\x80"']))
    ),
    "NUL": refuse_bytes("tie", lambda line, rng: with_raw_comment(line, b'"a\0b"')),
    "huge number": refuse_bytes("tie", lambda line, rng: with_raw_comment(line, rng.choice([b"1e999", b"-1e999", b"9" * 5000]))),
    "NaN": refuse_bytes("tie", lambda line, rng: with_raw_comment(line, rng.choice([b"NaN", b"Infinity", b"-Infinity"]))),
    "deep nesting": refuse_bytes("tie", lambda line, rng: with_raw_comment(line, b"[" * 10**5 + b"]" * 10**5)),
    "a key twice": refuse_bytes("tie", lambda line, rng: line[:-1] + b', "tie": true}'),
    "torn line": refuse_bytes("tie", lambda line, rng: line[: rng.randint(1, len(line) - 1)]),
    "no object": refuse_bytes("tie", lambda line, rng: rng.choice([b"[]", b"null", b"3", b'"x"', b"[" + line + b"]", b"yes"])),
}


@kind
def no_end_of_line_between_two_rows(case: Case, rng: random.Random) -> Expected:
    i = rng.randrange(len(case.rows) - 1)
    case.rows[i].raw = case.rows[i].line() + case.rows.pop(i + 1).line()
    return Expected(refused=i + 1)


@kind
def utf_16(case: Case, rng: random.Random) -> Expected:
    text = case.content().decode()
    case.rows, case.end = [Row({}, ("", "", False, ""), text.encode(rng.choice(["utf-16", "utf-16-le", "utf-16-be"])))], b""
    return Expected(refused=1)


@kind
def said_again(case: Case, rng: random.Random) -> Expected:
    """The same row once more, anywhere behind it, perhaps with another time or order of keys."""
    i = rng.randrange(len(case.rows))
    first = case.rows[i]
    again = dict(reversed(list((first.values | rng.choice([{}, {"labeled_at": "later"}])).items())))
    at = rng.randint(i + 1, len(case.rows))
    expected = case.accepted(**{SAID_BEFORE: 1})
    case.rows.insert(at, Row(again, first.meaning))
    return expected


@kind
def opposite_verdict_of_the_same_rater(case: Case, rng: random.Random) -> Expected:
    i = case.pick("chosen_id")
    row = case.rows[i].values
    opposite = row | {"chosen_id": row["rejected_id"], "rejected_id": row["chosen_id"], "tie": False}
    case.rows.append(Row(rng.choice([opposite] if not row["tie"] else [opposite, row | {"tie": False}]), case.rows[i].meaning))
    return Expected(refused=len(case.rows))


@kind
def opposite_verdict_of_another_rater(case: Case, rng: random.Random) -> None:
    i = case.pick("chosen_id")
    row, (chosen, rejected, _, _) = case.rows[i].values, case.rows[i].meaning
    opposite = row | {"chosen_id": row["rejected_id"], "rejected_id": row["chosen_id"], "tie": False, "rater": "eve"}
    case.rows.append(Row(opposite, (rejected, chosen, False, "eve")))


@kind
def another_round(case: Case, rng: random.Random) -> Expected:
    """The ids or the `round` of one row are those of another round: it is counted and does nothing else."""
    i = rng.randrange(len(case.rows))
    row, other = case.rows[i], rng.choice([0, 2, 9])
    row.values |= {"chosen_id": name(0, 0, other), "rejected_id": name(0, 1, other)} if "chosen_id" in row.values else {"round": other}
    return case.accepted(without=i, **{ANOTHER_ROUND: 1})


@kind
def all_about_another_round(case: Case, rng: random.Random) -> Expected:
    other = rng.choice([0, 2])
    for row in case.rows:
        row.values = {"chosen_id": name(0, 0, other), "rejected_id": name(0, 1, other)}
    return Expected(waits=True)


@kind
def no_tie_given(case: Case, rng: random.Random) -> None:
    row = case.rows[case.pick("tie")]
    del row.values["tie"]
    row.meaning = (*row.meaning[:2], False, row.meaning[3])


@kind
def line_ends_and_blank_lines(case: Case, rng: random.Random) -> None:
    """CRLF, blank lines, or no line feed at the end of the file."""
    case.end = rng.choice([b"\r\n", b"\n\n", b"\n \t\n", b"\r\n\r\n"])
    if rng.random() < 0.5:
        case.rows[-1].raw = case.rows[-1].line() + b" "


@kind
def byte_order_mark(case: Case, rng: random.Random) -> None:
    """At the start, or in the middle where two files were joined."""
    row = case.rows[rng.choice([0, rng.randrange(len(case.rows))])]
    row.raw = codecs.BOM_UTF8 + row.line()


@kind
def line_separators_inside_a_string(case: Case, rng: random.Random) -> None:
    with_text(case.rows[rng.randrange(len(case.rows))], rng.choice("\u2028\u2029\u0085\u000b\u000c\u001c\u001e"))


@kind
def legal_oddities(case: Case, rng: random.Random) -> None:
    """Escaped or astral characters, spaces, nested comments, a gzipped file."""
    row = case.rows[rng.randrange(len(case.rows))]
    row.values["comment"] = rng.choice(["\\ud83d \U0001f600", [[[{"a": [1e300, -1]}]]], None, "ำ"])
    row.raw = json.dumps(row.values, separators=rng.choice([(",", ":"), (" , ", " : ")])).encode()
    case.name = rng.choice(["labels.jsonl", "labels.jsonl.gz"])


def outcome(case: Case, folder: Any) -> Expected | str:
    path = folder / case.name
    path.write_bytes(gzip.compress(case.content()) if path.suffix == ".gz" else case.content())
    try:
        found = compare_by_file(file_task(samples(), path, ROUND))
    except UserError as error:
        file, _, line = error.where.rpartition(", line ")
        return Expected(refused=int(line)) if file == str(path) else f"no line: {error}"
    except WaitingForLabels:
        return Expected(waits=True)
    except Exception as error:  # any other is what the test looks for: a traceback
        return f"{type(error).__name__}: {error}"
    if found.rows != sum(1 for row in case.rows if row.line().strip()):
        return f"{found.rows} rows"
    return in_order(Expected([(c.chosen, c.rejected, c.tie, c.rater) for c in found.comparisons], dict(found.left_out)))


def in_order(expected: Expected) -> Expected:
    """The order of the rows does not matter, and neither does the order of the two sides of a tie."""
    meanings = [(*sorted(meaning[:2]), *meaning[2:]) if meaning[2] else meaning for meaning in expected.meanings]
    return Expected(sorted(meanings), expected.left_out, expected.refused, expected.waits)


def test_600_mutations(tmp_path):
    table, wrong = [], []
    for what, mutate in KINDS.items():
        right = 0
        for seed in range(FILES_PER_KIND):
            rng = random.Random(f"{what} {seed}")
            case = Case(rng)
            expected = in_order(mutate(case, rng) or case.accepted())
            got = outcome(case, tmp_path)
            right += got == expected
            if got != expected:
                wrong.append(f"{what}, seed {seed}: {got} instead of {expected}")
        table.append(f"{what.replace('_', ' '):<40} {right:>3} of {FILES_PER_KIND}")
    print("\n" + "\n".join(table))
    assert len(KINDS) * FILES_PER_KIND == 600
    assert not wrong, "\n".join(wrong)
