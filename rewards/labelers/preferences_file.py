"""Comparisons that people or other programs wrote into files (`labeler.kind: preferences-file`).

label_files.py reads the files, label_rows.py checks each row, matching.py finds the samples and counts each label once, and raters.py joins
the votes of several raters. No row is ignored silently, and none is counted twice. The run waits until there are enough labels.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from configs.errors import WaitingForLabels
from configs.schema import LabelerConfig
from policies import parallel
from rewards.comparisons import WIN_RATE, write_jsonl
from rewards.labelers.label_files import WANTED, find_files, find_path, read_labels
from rewards.labelers.labels import Labels, LabelTask
from rewards.labelers.matching import Matcher
from rewards.labelers.picking import Pair, Texts, texts_of, win_pairs
from rewards.labelers.raters import combine, pair_key


def label(task: LabelTask) -> Labels:
    """The files' comparisons for this round. Labels that bring their own texts are left out if these are longer than the token limits."""
    try:
        found = compare_by_file(task)
    except WaitingForLabels as waiting:
        raise WaitingForLabels(f"{waiting}{_policies_to_compare(task)}") from None
    return within_limits(task, found)


def _policies_to_compare(task: LabelTask) -> str:
    """The end of the message while the run waits: where the pairs are that measure win rates, if some have no label yet."""
    pairs, found = win_pairs(task), read_votes(task) or Labels()
    wanted = write_wanted(task, pairs, found) if not_labeled(pairs, found) else None
    return f"\n  policies to compare as well, for the win rate: {wanted}" if wanted else ""


def within_limits(task: LabelTask, found: Labels) -> Labels:
    """The labels without those that bring texts of their own that are too long. Raises UserError if none is left."""
    own_texts = [row for row in found.comparisons if not row.chosen_id]  # samples are never too long
    if not own_texts:
        return found
    limits = task.get_limits()
    kept = [row for row in found.comparisons if row.chosen_id or limits.excess(row) is None]
    too_long = limits.keep(own_texts)[1]
    if not kept:
        raise limits.nothing_left("comparisons", str(task.config.path), too_long)
    return replace(found, comparisons=kept, left_out=found.left_out + too_long)


def compare_by_file(task: LabelTask) -> Labels:
    """The files' comparisons for this round, in the order of the samples. The order of rows and files does not matter.

    Raises WaitingForLabels while there is no file, or while too few pairs of this round are labeled. Those that compare policies count,
    but at least one must be of samples. Raises UserError with the row's place if a row cannot be used.
    """
    path = find_path(task.config, task.round_number)
    found = read_votes(task)
    if found is None:
        raise WaitingForLabels(ask(path, task.samples_file, "there is no such file yet"))
    now, wanted = {sample.id for sample in task.samples}, task.config.min_labels or 1
    rows = [row for row in found.comparisons if (row.chosen_id in now if row.chosen_id else row.generation == task.round_number)]
    of_samples, of_policies = len({pair_key(row) for row in rows}), len({pair_key(row) for row in found.wins})
    if not of_samples or of_samples + of_policies < wanted:
        what = f"it has {of_samples + of_policies} of {wanted} comparisons for this round"
        if not of_samples:
            what = (
                f"it has {of_policies} comparisons of policies, and none of samples"
                if of_policies
                else "it has no comparison for this round"
            )
        raise WaitingForLabels(ask(path, task.samples_file, what + described(found)))
    return join_votes(found, task.config, wanted)


def join_votes(found: Labels, config: LabelerConfig, wanted: int) -> Labels:
    """The labels with what `labeler.raters` makes of several votes on a pair. wanted: how many pairs are to be labeled."""
    comparisons, of_raters = combine(found.comparisons, config)
    read = {"labels_read": found.rows, "votes": len(found.comparisons), "labels_wanted": wanted}
    return replace(found, comparisons=comparisons, metrics=found.metrics | read | of_raters)


def not_labeled(pairs: Sequence[Pair], found: Labels) -> list[Pair]:
    """Those of the pairs of which no label says anything. A label of two samples is one of all samples with these texts."""
    there = _labeled(found)
    return [pair for pair in pairs if _what(pair) not in there]


def _labeled(found: Labels) -> set[Texts | frozenset[str]]:
    samples = {
        texts_of(row.prompt_id, (row.chosen, row.chosen_finished), (row.rejected, row.rejected_finished)) for row in found.comparisons
    }
    return samples | {frozenset((row.chosen_id, row.rejected_id)) for row in found.wins}


def _what(pair: Pair) -> Texts | frozenset[str]:
    """What has to be labeled: two texts, or of a pair for win rates the answers of two policies, whose texts may be those of others."""
    return frozenset((pair.first.id, pair.second.id)) if pair.picked == WIN_RATE else pair.texts


def write_wanted(task: LabelTask, pairs: Sequence[Pair], found: Labels) -> Path | None:
    """Write down the pairs that people are asked about, those for win rates first, and whether each is labeled already. Says where.

    None without a work directory.
    """
    folder = task.checkpoints.folder
    if folder is None:
        return None
    if parallel.is_main():
        there = _labeled(found)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            {
                "job": WIN_RATE if pair.picked == WIN_RATE else "samples",
                "prompt": pair.first.prompt,
                "ids": [pair.first.id, pair.second.id],
                "completions": [pair.first.completion, pair.second.completion],
                "labeled": _what(pair) in there,
            }
            for pair in sorted(pairs, key=lambda pair: pair.picked != WIN_RATE)
        ]
        write_jsonl(folder / WANTED, rows)
    return folder / WANTED


def described(found: Labels) -> str:
    """What was left out and why, and the first rows that could not be matched, as the end of a message."""
    reasons = "; ".join(f"{count} x {why}" for why, count in found.left_out.items())
    rows = "".join(f"\n  {place}: {why}" for place, why in found.metrics.get("unmatched", {}).items())
    return (f" ({reasons})" if reasons else "") + rows


def read_votes(task: LabelTask) -> Labels | None:
    """What each rater says of each pair of this round. None if there is no file. Raises UserError as `compare_by_file` does."""
    files = find_files(find_path(task.config, task.round_number))
    if not files:
        return None
    matcher = Matcher(task)
    for file in files:
        for place, row in read_labels(file):
            matcher.add(place if len(files) == 1 else f"{file.name}, {place}", f"{file}, {place}", row)
    return matcher.labels()


def ask(path: Path, samples_path: Path, why: str) -> str:
    """What people are told while the run waits for them."""
    return (
        f"waiting for labels: {why}\n"
        f"  samples to compare: {samples_path}\n"
        f"  write comparisons to: {path}\n"
        '  one a line: {"chosen_id": "...", "rejected_id": "...", "tie": false}, with ids of the samples\n'
        "  then run the same command again; `loop label` does all of this in a browser"
    )
