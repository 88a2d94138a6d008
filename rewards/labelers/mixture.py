"""Several labelers share the prompts of a round (`labeler.kind: mixture`), for example people and a judge.

Who gets a prompt depends on the seed and the prompt only, so it is the same in every attempt. A share of the prompts, drawn at random,
goes to all parts (`labeler.double_fraction`), which measures how far they agree. Labels that a file brings for other pairs are used as
well. Where several parts have labeled a pair, the one that is named first decides.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from configs.errors import WaitingForLabels
from configs.schema import LabelerConfig
from configs.seeds import derive_seed
from rewards.comparisons import Comparison
from rewards.labelers import preferences_file
from rewards.labelers.label_files import find_path
from rewards.labelers.labels import Labels, LabelTask
from rewards.labelers.pairs import Judge, decide
from rewards.labelers.picking import Pair, pick_pairs
from rewards.labelers.raters import PairKey, alpha_of_pairs, pair_key, vote

FILE = "preferences-file"


def label(task: LabelTask, judge_of: Callable[[LabelTask], Judge]) -> Labels:
    """Have each part label its share. judge_of: from a task with the config of one part to its judge. People are waited for last."""
    config, pairs = task.config, pick_pairs(task)
    shares = [[pair for pair in pairs if part in parts_of(pair.prompt_id, config, task.seed)] for part in range(len(config.parts))]
    made: dict[int, Labels] = {}
    for number, kind in sorted(enumerate(config.parts), key=lambda part: part[1] == FILE):
        own = replace(task, config=_config_of(config, kind), part=f"-{number}")
        made[number] = _from_file(own, shares[number]) if kind == FILE else decide(own, shares[number], judge_of(own)(shares[number]))
    return _join([made[number] for number in range(len(config.parts))], config.parts)


def parts_of(prompt_id: str, config: LabelerConfig, seed: int) -> set[int]:
    """The numbers of the parts that label a prompt's pairs."""
    if random.Random(derive_seed(seed, "double", prompt_id)).random() < config.double_fraction:
        return set(range(len(config.parts)))
    drawn = random.Random(derive_seed(seed, "part", prompt_id)).random()
    return {next((part for part, end in enumerate(accumulate(config.shares)) if drawn < end), len(config.parts) - 1)}


def _config_of(config: LabelerConfig, kind: str) -> LabelerConfig:
    return config.model_copy(update={"kind": kind, "parts": [], "shares": []})


def _from_file(task: LabelTask, wanted: Sequence[Pair]) -> Labels:
    """What people say. Raises WaitingForLabels while fewer of the wanted pairs are labeled than `labeler.min_labels`, or not all."""
    found = preferences_file.join_votes(preferences_file.read_votes(task) or Labels(), task.config, len(wanted))
    missing = preferences_file.not_labeled(wanted, found)
    enough = min(task.config.min_labels or len(wanted), len(wanted))
    if len(wanted) - len(missing) < enough:
        what = f"{len(wanted) - len(missing)} of {enough} wanted pairs are labeled"
        path, asked = find_path(task.config, task.round_number), preferences_file.write_wanted(task, wanted, found)
        raise WaitingForLabels(preferences_file.ask(path, asked or task.samples_file, what + preferences_file.described(found)))
    return preferences_file.within_limits(task, found)


def _join(parts: Sequence[Labels], names: Sequence[str]) -> Labels:
    """All labels, each pair once, and how far the parts agree on the pairs that several of them have labeled."""
    used, wins = _each_pair_once([labels.comparisons for labels in parts]), _each_pair_once([labels.wins for labels in parts])
    metrics: dict[str, Any] = {}
    for labels in parts:
        metrics |= labels.metrics
    metrics |= {"by_part": {name: len(rows) for name, rows in zip(names, used, strict=True)}, **agreement(parts)}
    left_out = sum((labels.left_out for labels in parts), Counter[str]())
    return Labels([row for rows in used for row in rows], left_out, metrics, [row for rows in wins for row in rows])


def _each_pair_once(parts: Sequence[Sequence[Comparison]]) -> list[list[Comparison]]:
    """What each part says, without the pairs of which a part before it has said something."""
    owner: dict[PairKey, int] = {}
    for number, rows in enumerate(parts):
        for row in rows:
            owner.setdefault(pair_key(row), number)
    return [[row for row in rows if owner[pair_key(row)] == number] for number, rows in enumerate(parts)]


def agreement(parts: Sequence[Labels]) -> Mapping[str, Any]:
    """How many pairs several parts have labeled, how many of them alike, and Krippendorff's alpha. A part that says several things of one
    pair (several raters) is not compared there."""
    said: dict[PairKey, list[Any]] = {}
    for labels in parts:
        of_part: dict[PairKey, set[Any]] = {}
        for row in [*labels.comparisons, *labels.wins]:
            of_part.setdefault(pair_key(row), set()).add(vote(row))
        for key, votes in of_part.items():
            if len(votes) == 1:
                said.setdefault(key, []).extend(votes)
    both = {key: votes for key, votes in said.items() if len(votes) > 1}
    return {
        "labeled_twice": len(both),
        "parts_agree": sum(len(set(votes)) == 1 for votes in both.values()) / len(both) if both else None,
        "parts_alpha": alpha_of_pairs(both),
    }
