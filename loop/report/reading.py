"""What a report reads of a run: its state, its settings and its figures. What a run does not have, or an older version wrote otherwise, is
left out. Must never write into the run.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.loading import flatten, read_yaml
from loop.promotion.choosing import evaluation_stage
from loop.round import EVALUATE
from loop.store.estimates import Estimate, estimates, is_number
from loop.store.journal import RunState, read_events
from loop.store.layout import RunFolder
from loop.store.seen import seen_state

WINS = {
    ("win_rate", "sft"): "over SFT",
    ("length_controlled_win_rate", "sft"): "over SFT, at the same length",
    ("win_rate", "last"): "over the last round",
    ("length_controlled_win_rate", "last"): "over the last round, at the same length",
}
"""(metric of `evaluate`, the other policy) -> what it is called here."""


@dataclass(frozen=True)
class RunView:
    """A run as a report sees it.

    name: as in messages; EXPERIMENT/RUN for a run of an experiment. config: the settings by dotted name; empty if the file cannot be read.
    started: the time of the first event.
    """

    name: str
    folder: RunFolder
    state: RunState
    config: dict[str, Any]
    started: str = ""

    @property
    def rounds(self) -> list[int]:
        """The rounds that have begun."""
        return sorted(self.state.rounds)

    @property
    def evaluated(self) -> list[int]:
        """The rounds whose policy was evaluated."""
        return [r for r in self.rounds if self.metrics(EVALUATE.name, r)]

    def metrics(self, stage: str, round_number: int | None) -> dict[str, Any]:
        """What a stage has measured; nothing where it is not done."""
        return self.state.stage(stage, round_number).metrics

    def policy(self, round_number: int | None) -> dict[str, Any]:
        """What was measured of a round's policy on held-out prompts; None means the SFT policy."""
        return self.metrics(evaluation_stage(round_number).name, round_number)

    def rows(self, stage: str, round_number: int | None, file: str) -> Iterator[dict[str, Any]]:
        """The rows of a JSON-lines file of a committed stage; none where it is not there."""
        yield from json_rows(self.folder.stage(stage, round_number) / file)


def read_run(path: Path, name: str | None = None) -> RunView:
    """Read a run. name: what to call it, if not by its directory. Raises UserError for a damaged journal."""
    folder = RunFolder(path)
    try:
        config = flatten(read_yaml(folder.config))
    except (UserError, OSError):
        config = {}
    events = read_events(folder.journal)
    return RunView(name or folder.name, folder, seen_state(folder, events), config, events[0].at if events else "")


def json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines; none where there is no file. Raises UserError for a line that is none."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise UserError("a line is no JSON object", f"{path}, line {number}", "see what is damaged with `loop verify RUN`")
            yield row


def numbers(value: Any) -> dict[str, float]:
    """The numbers in a metric that has several, by name."""
    return {str(name): part for name, part in value.items() if is_number(part)} if isinstance(value, dict) else {}


def rates(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The share of answers on which each rule fires, by rule."""
    return numbers(metrics.get("defects"))


def win_rates(metrics: Mapping[str, Any]) -> dict[str, Estimate]:
    """How often the policy is preferred, by the names of `WINS`."""
    found = {name: estimates(metrics.get(metric)).get(other) for (metric, other), name in WINS.items()}
    return {name: rate for name, rate in found.items() if rate is not None}


def win_rate_over_sft(metrics: Mapping[str, Any]) -> Estimate | None:
    """How often the policy is preferred to the SFT policy."""
    return estimates(metrics.get("win_rate")).get("sft")
