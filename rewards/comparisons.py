"""Samples and comparisons: the records that pass from stage to stage, as JSONL. Plain data; imports no ML library.

A comparison is a row of TRL's preference format (prompt, chosen, rejected) with where it came from beside it.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

Prompt = str | list[dict[str, str]]
Record = TypeVar("Record")


@dataclass(frozen=True)
class PromptRecord:
    """Something to ask. `prompt_id`: the hash of its content (`splits.py`). `source`: the data set or part of it that it came from.

    `unseen_fact`: a held-out prompt of the embedded world about a fact that nothing of the run's training asks.
    """

    prompt_id: str
    prompt: Prompt
    source: str = ""
    unseen_fact: bool = False


@dataclass(frozen=True)
class Sample:
    """One completion of a policy. `generation`: the round whose policy made it; None: the SFT policy, before round 0."""

    id: str
    prompt_id: str
    prompt: Prompt
    completion: str
    finished: bool
    generation: int | None
    k: int
    source: str = ""
    policy: str = ""  # digest of the policy stage
    num_tokens: int = 0
    unseen_fact: bool = False  # as in the prompt's record
    decoding: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Two completions of a prompt and which is better. `generation` is None for original data. `tie`: neither is.

    `heldout`: nothing is trained on this prompt (`splits.py`), so the comparison only judges.
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


@dataclass(frozen=True)
class Candidate:
    """One of a prompt's completions, with its share of the wins among them."""

    completion: str
    finished: bool
    wins: float


@dataclass(frozen=True)
class CandidateGroup:
    """All compared completions of one prompt. Wins add up to the number of comparisons; a tie is half a win each."""

    prompt_id: str
    prompt: Prompt
    candidates: list[Candidate]


def sample_id(round_number: int | None, generation: int | None, prompt_id: str, k: int) -> str:
    """The name of a prompt's k-th completion that round `round_number` drew from generation `generation`'s policy."""
    return f"{round_number}-{generation}-{prompt_id}-{k}"


def round_of(sample_id: str) -> int | None:
    """The round that a sample was drawn in, by its id; None where this is no sample's id.

    A round draws from its own policy and from the last round's, so the two numbers are equal or follow each other.
    """
    found = re.fullmatch(r"(0|[1-9][0-9]{0,5})-(0|[1-9][0-9]{0,5})-.+-[0-9]+", sample_id, re.DOTALL)
    if not found or int(found[1]) - int(found[2]) not in (0, 1):
        return None
    return int(found[1])


def write_jsonl(path: Path, records: Iterable[Any]) -> int:
    """One record a line; returns how many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            row = record if isinstance(record, dict) else asdict(record)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_jsonl(path: Path, kind: type[Record]) -> list[Record]:
    """Records of one kind; fields that it does not have are left out."""
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    with path.open(encoding="utf-8") as file:
        return [kind(**{k: v for k, v in json.loads(line).items() if k in names}) for line in file if line.strip()]


def group_candidates(comparisons: Sequence[Comparison]) -> list[CandidateGroup]:
    """Comparisons of one prompt and generation joined into the set of its candidates, in order of first appearance.

    Equal completions are one candidate, whether labels name them by id or bring their text.
    """
    groups: dict[tuple[str, int | None], dict[tuple[str, bool], float]] = {}
    prompts: dict[tuple[str, int | None], Prompt] = {}
    for row in comparisons:
        where = (row.prompt_id, row.generation)
        prompts[where] = row.prompt
        wins = groups.setdefault(where, {})
        won, lost = (0.5, 0.5) if row.tie else (1.0, 0.0)
        for completion, share in (((row.chosen, row.chosen_finished), won), ((row.rejected, row.rejected_finished), lost)):
            wins[completion] = wins.get(completion, 0.0) + share
    return [
        CandidateGroup(where[0], prompts[where], [Candidate(text, finished, share) for (text, finished), share in wins.items()])
        for where, wins in groups.items()
        if len(wins) > 1
    ]
