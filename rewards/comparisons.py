"""Samples and comparisons: the records that pass from stage to stage, as JSON lines. Plain data; imports no ML library.

A comparison is a row of TRL's preference format (prompt, chosen, rejected) with its origin beside it. In these records, `generation` is
the round whose policy wrote a completion. (In the config, `generation` is the section with the sampling settings.)
"""

import functools
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

Prompt = str | list[dict[str, str]]
Record = TypeVar("Record")
MAX_LOG_ODDS = 700.0
"""Beyond this, e^x is too large for a float. Scores of models from elsewhere may have any scale."""
PIVOT = "pivot"
"""The field of a record that is left out where it is None."""
WIN_RATE = "win-rate"
"""How pairs are picked that compare policies (`Comparison.picked`). They only measure, so they are never in `comparisons.jsonl`."""


@dataclass(frozen=True)
class PromptRecord:
    """A prompt to ask.

    prompt_id: the hash of its content (`splits.py`). source: the data set, or the part of it, that the prompt comes from. unseen_fact: True
    for a held-out prompt of the embedded world about a fact that no training prompt of the run asks about. pivot: if the prompt is answered
    by way of another language, what the user wrote (rewards/shown.py); `prompt` is then what the policy reads.
    """

    prompt_id: str
    prompt: Prompt
    source: str = ""
    unseen_fact: bool = False
    pivot: dict[str, Any] | None = None


@dataclass(frozen=True)
class Demonstration:
    """A prompt and a good answer to it, which nothing is compared with. SFT is trained on it."""

    prompt_id: str
    prompt: Prompt
    answer: str
    source: str = ""
    pivot: dict[str, Any] | None = None


@dataclass(frozen=True)
class Sample:
    """One completion of a policy.

    generation: the round whose policy wrote it; None means the SFT policy, before round 0. k: its number among the prompt's completions.
    policy: the digest of the stage that trained the policy. unseen_fact: as in the prompt's record. pivot: if the prompt was answered by
    way of another language, what people see instead, and who translated it (rewards/shown.py).
    """

    id: str
    prompt_id: str
    prompt: Prompt
    completion: str
    finished: bool
    generation: int | None
    k: int
    source: str = ""
    policy: str = ""
    num_tokens: int = 0
    unseen_fact: bool = False
    decoding: dict[str, float | list[str]] = field(default_factory=dict)
    pivot: dict[str, Any] | None = None


@dataclass(frozen=True)
class Comparison:
    """Two completions of a prompt, and which one is better.

    generation: the round whose policy wrote the completions; None means original data. tie: neither completion is better. heldout:
    nothing is trained on this prompt (`splits.py`), so the comparison only judges. picked: how the pair was picked, `random` or another
    value of `labeler.pick`, or WIN_RATE; empty for original data and for pairs that the labeler brought. confidence: the probability that
    the chosen completion is better, by the labeler (0.5 for a tie, or more where some of several raters decided); None where the labeler
    does not say. shown_first: which one the labeler saw first, `chosen` or `rejected`, or `both` if it was asked in both orders; empty
    where that is not known. pivot: as in a sample, what the labeler saw instead of these texts.
    """

    prompt_id: str
    prompt: Prompt
    chosen: str
    rejected: str
    source: str = ""
    generation: int | None = None
    tie: bool = False
    chosen_finished: bool = True
    rejected_finished: bool = True
    chosen_id: str = ""
    rejected_id: str = ""
    labeler: str = "original"
    rater: str = ""
    labeled_at: str = ""
    heldout: bool = False
    picked: str = ""
    confidence: float | None = None
    shown_first: str = ""
    pivot: dict[str, Any] | None = None


@dataclass(frozen=True)
class Candidate:
    """One of a prompt's completions, and how many comparisons it has won."""

    completion: str
    finished: bool
    wins: float


@dataclass(frozen=True)
class CandidateGroup:
    """All compared completions of one prompt. Wins add up to the number of comparisons; a tie gives each completion half a win."""

    prompt_id: str
    prompt: Prompt
    candidates: list[Candidate]


class Answer(NamedTuple):
    """A prompt, a completion, and whether the policy ended the completion itself."""

    prompt: Prompt
    completion: str
    finished: bool


def turned(row: Comparison) -> Comparison:
    """The same pair with the other completion as the chosen one."""
    return replace(
        row,
        chosen=row.rejected,
        rejected=row.chosen,
        chosen_finished=row.rejected_finished,
        rejected_finished=row.chosen_finished,
        chosen_id=row.rejected_id,
        rejected_id=row.chosen_id,
        pivot=row.pivot and row.pivot | {"chosen": row.pivot["rejected"], "rejected": row.pivot["chosen"]},
    )


def win_probability(difference: float) -> float:
    """The probability that the first of two completions is better, given the difference of their scores in log-odds (Bradley-Terry)."""
    return 1.0 / (1.0 + math.exp(min(-difference, MAX_LOG_ODDS)))


def sample_id(round_number: int | None, policy_round: int | None, prompt_id: str, k: int) -> str:
    """The id of a prompt's k-th completion that round `round_number` drew from the policy of round `policy_round`."""
    return f"{round_number}-{policy_round}-{prompt_id}-{k}"


def round_of(sample_id: str) -> int | None:
    """The round that a sample was drawn in, by its id; None if this is not a sample's id.

    A round draws from its own policy and from the last round's, so the id's two numbers are equal or follow each other.
    """
    if answer := parse_answer_id(sample_id):
        return answer[0]
    found = re.fullmatch(r"(0|[1-9][0-9]{0,5})-(0|[1-9][0-9]{0,5})-.+-[0-9]+", sample_id, re.DOTALL)
    if not found or int(found[1]) - int(found[2]) not in (0, 1):
        return None
    return int(found[1])


def answer_id(round_number: int, policy_round: int | None, prompt_id: str) -> str:
    """The id of an answer that round `round_number` compares for its win rates. policy_round: None means the SFT policy."""
    return f"{round_number}-{'sft' if policy_round is None else policy_round}-{prompt_id}-answer"


def parse_answer_id(id: str) -> tuple[int, int | None] | None:
    """The round that compares an answer, and the round whose policy wrote it (None: the SFT policy). None if this is no answer's id."""
    found = re.fullmatch(r"(0|[1-9][0-9]{0,5})-(sft|0|[1-9][0-9]{0,5})-.+-answer", id, re.DOTALL)
    return (int(found[1]), None if found[2] == "sft" else int(found[2])) if found else None


def to_line(record: Any) -> str:
    """A record as one line of JSON, with the line feed."""
    # `asdict` would copy the messages of each prompt, which takes longer than writing them. A record has its fields in their order.
    row = record if isinstance(record, dict) else vars(record)
    if row is not record and row.get(PIVOT, "") is None:
        row = {name: value for name, value in row.items() if name != PIVOT}  # a record of a direct answer has no such key
    return _ENCODER.encode(row) + "\n"


def prompt_line(line: bytes, source: str) -> bytes:
    """The line of the prompt that a comparison's line begins with. The texts are copied, and not read.

    No text can hold what is looked for, because a quotation mark inside a text has a backslash before it.
    """
    return line[: line.rindex(b', "chosen": ')] + _after_prompt(source)


@functools.lru_cache(maxsize=1024)
def _after_prompt(source: str) -> bytes:
    """What stands behind the prompt on the line of a prompt from this source."""
    return to_line(PromptRecord("", "", source)).removeprefix('{"prompt_id": "", "prompt": ""').encode()


def from_line(line: str | bytes, kind: type[Record]) -> Record:
    """The record on a line. Keys that its kind does not have are ignored."""
    names = _names(kind)  # type: ignore[arg-type]
    return kind(**{name: value for name, value in json.loads(line).items() if name in names})


def write_jsonl(path: Path, records: Iterable[Any]) -> int:
    """Write one record a line, and return how many there were."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(to_line(record))
            count += 1
    return count


def read_jsonl(path: Path, kind: type[Record]) -> list[Record]:
    """Read records of one kind. Keys that the kind does not have are ignored."""
    return list(iterate_jsonl(path, kind))


def iterate_jsonl(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Read records as `read_jsonl` does, one at a time."""
    with path.open(encoding="utf-8") as file:
        yield from (from_line(line, kind) for line in file if line.strip())


@functools.cache
def _names(kind: type) -> dict[str, None]:
    """The names of the fields of a record, in order."""
    return dict.fromkeys(of.name for of in fields(kind))


_ENCODER = json.JSONEncoder(ensure_ascii=False)


def all_pairs(samples: Sequence[Sample]) -> dict[str, list[tuple[Sample, Sample]]]:
    """All pairs of different completions, by prompt."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.prompt_id, []).append(sample)
    return {
        prompt_id: [(a, b) for a, b in itertools.combinations(group, 2) if (a.completion, a.finished) != (b.completion, b.finished)]
        for prompt_id, group in groups.items()
    }


def group_candidates(comparisons: Sequence[Comparison]) -> list[CandidateGroup]:
    """Join the comparisons of each prompt and round into the set of the prompt's candidates, in order of first appearance.

    Equal completions are one candidate, whether a label names a sample by its id or gives its text. Prompts with a single candidate are
    left out.
    """
    groups: dict[tuple[str, int | None], dict[tuple[str, bool], float]] = {}
    prompts: dict[tuple[str, int | None], Prompt] = {}
    for row in comparisons:
        where = (row.prompt_id, row.generation)
        prompts[where] = row.prompt
        wins = groups.setdefault(where, {})
        won, lost = (0.5, 0.5) if row.tie else (1.0, 0.0)
        for completion, gained in (((row.chosen, row.chosen_finished), won), ((row.rejected, row.rejected_finished), lost)):
            wins[completion] = wins.get(completion, 0.0) + gained
    return [
        CandidateGroup(where[0], prompts[where], [Candidate(text, finished, number) for (text, finished), number in wins.items()])
        for where, wins in groups.items()
        if len(wins) > 1
    ]
