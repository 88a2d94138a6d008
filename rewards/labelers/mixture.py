"""Several labelers share the prompts of a round (`labeler.kind: mixture`), for example people and a judge.

Who gets a prompt depends on the seed and the prompt only, so it is the same in every attempt. A share of the prompts, drawn at random,
goes to all parts (`labeler.double_fraction`), which measures how far they agree. Labels that a file brings for other pairs are used as
well. Where several parts have labelled a pair, the one that is named first decides.
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
from policies import parallel
from rewards.comparisons import Comparison, write_jsonl
from rewards.labelers import preferences_file
from rewards.labelers.label_files import WANTED
from rewards.labelers.labels import Labels, LabelTask
from rewards.labelers.pairs import Judge, decide
from rewards.labelers.picking import Pair, pick_pairs
from rewards.labelers.raters import PairKey, alpha_of_pairs, combine, pair_key, vote

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
    """What people say. Raises WaitingForLabels while fewer of the wanted pairs are labelled than `labeler.min_labels`, or not all."""
    given = (task.samples, task.config, task.split, task.round_number, task.earlier, task.is_normalized)
    found = preferences_file.read_votes(*given) or Labels()
    votes = len(found.comparisons)
    found.comparisons, of_raters = combine(found.comparisons, task.config)
    there = {_ids(row) for row in found.comparisons}
    missing = [pair for pair in wanted if frozenset((pair.first.id, pair.second.id)) not in there]
    enough = min(task.config.min_labels or len(wanted), len(wanted))
    found.metrics |= {"labels_read": votes + found.left_out.total(), "votes": votes, "labels_wanted": len(wanted)} | of_raters
    if len(wanted) - len(missing) < enough:
        what = f"{len(wanted) - len(missing)} of {enough} wanted pairs are labelled"
        path = preferences_file.find_path(task.config, task.round_number)
        raise WaitingForLabels(preferences_file.ask(path, _write_wanted(task, missing), what + preferences_file.described(found)))
    return preferences_file.within_limits(task, found)


def _write_wanted(task: LabelTask, pairs: Sequence[Pair]) -> Any:
    """Write down the pairs that people are still asked about, and say where. Without a work directory, the samples' file has to do."""
    folder = task.checkpoints.folder
    if folder is None:
        return task.samples_file
    if parallel.is_main():
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            {
                "prompt": pair.first.prompt,
                "ids": [pair.first.id, pair.second.id],
                "completions": [pair.first.completion, pair.second.completion],
            }
            for pair in pairs
        ]
        write_jsonl(folder / WANTED, rows)
    return folder / WANTED


def _join(parts: Sequence[Labels], names: Sequence[str]) -> Labels:
    """All labels, each pair once, and how far the parts agree on the pairs that several of them have labelled."""
    owner: dict[PairKey, int] = {}
    for number, labels in enumerate(parts):
        for row in labels.comparisons:
            owner.setdefault(pair_key(row), number)
    used = [[row for row in labels.comparisons if owner[pair_key(row)] == number] for number, labels in enumerate(parts)]
    metrics: dict[str, Any] = {}
    for labels in parts:
        metrics |= labels.metrics
    metrics |= {"by_part": {name: len(rows) for name, rows in zip(names, used, strict=True)}, **agreement(parts)}
    return Labels([row for rows in used for row in rows], sum((labels.left_out for labels in parts), Counter()), metrics)


def agreement(parts: Sequence[Labels]) -> Mapping[str, Any]:
    """How many pairs several parts have labelled, how many of them alike, and Krippendorff's alpha. A part that says several things of one
    pair (several raters) is not compared there."""
    said: dict[PairKey, list[Any]] = {}
    for labels in parts:
        of_part: dict[PairKey, set[Any]] = {}
        for row in labels.comparisons:
            of_part.setdefault(pair_key(row), set()).add(vote(row))
        for key, votes in of_part.items():
            if len(votes) == 1:
                said.setdefault(key, []).extend(votes)
    both = {key: votes for key, votes in said.items() if len(votes) > 1}
    return {
        "labelled_twice": len(both),
        "parts_agree": sum(len(set(votes)) == 1 for votes in both.values()) / len(both) if both else None,
        "parts_alpha": alpha_of_pairs(both),
    }


def _ids(row: Comparison) -> frozenset[str]:
    return frozenset((row.chosen_id, row.rejected_id))
