"""The labelers by name. `labeler.kind` names one.

    gold                 the embedded world's true reward (gold.py)
    reward-model         a reward model that this run does not train (reward_model.py)
    judge                a language model that is asked over HTTP (judge.py)
    rules                fewer defects are better (rules.py)
    preferences-file     comparisons that people or programs write into files (preferences_file.py)
    file.py:function     the user's own judge, also as module:function (function.py)
    mixture              several of these share the prompts (mixture.py)

All but the file pick pairs (picking.py) and have them judged (pairs.py). A file brings its own pairs. All of them also compare the policies
themselves, for win rates (`labeler.win_rate_fraction`).

To add a labeler that judges pairs, write a function from `LabelTask` to `Judge`, and enter it in `JUDGES`. It can then be part of a mixture
(`LabelerConfig.parts`). To add one that finds its pairs itself, write a function from `LabelTask` to `Labels`, and enter it in `LABELERS`.
Then add its name to `LabelerConfig` (configs/judging.py).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from configs import user_functions
from configs.errors import UserError
from configs.seeds import derive_seed, draw
from rewards.comparisons import turned
from rewards.labelers import function, gold, judge, mixture, preferences_file, reward_model, rules
from rewards.labelers.labels import Labeler, Labels, LabelTask
from rewards.labelers.pairs import Judge, equal_wins, label_by_judge

JUDGES: dict[str, Callable[[LabelTask], Judge]] = {
    "gold": gold.judge,
    "reward-model": reward_model.judge,
    "judge": judge.judge,
    "rules": rules.judge,
}
"""Those of the built-in labelers that judge pairs, by name."""


def _judge_of(task: LabelTask) -> Judge:
    kind = task.config.kind
    return function.judge(task) if user_functions.is_function(kind) else JUDGES[kind](task)


def _label_by_judge(task: LabelTask) -> Labels:
    return label_by_judge(task, _judge_of(task))


LABELERS: dict[str, Labeler] = dict.fromkeys(JUDGES, _label_by_judge) | {
    "preferences-file": preferences_file.label,
    "mixture": partial(mixture.label, judge_of=_judge_of),
}
"""The built-in labelers by name."""


def label(task: LabelTask) -> Labels:
    """Have the samples compared by the labeler that the config names. Raises UserError if no comparison can be trained on."""
    labeler = LABELERS.get(task.config.kind, _label_by_judge)
    labels = labeler(task)
    labels.wins += equal_wins(task, labels.wins)
    where = str(task.config.path or task.samples_file)
    if not labels.comparisons and labels.left_out:
        reasons = "; ".join(f"{count} x {why}" for why, count in labels.left_out.items())
        raise UserError(f"no label can be used: {reasons}", where, "look at the reasons")
    if labels.comparisons and all(row.heldout for row in labels.comparisons):
        raise UserError(
            f"all {len(labels.comparisons)} comparisons are of held-out prompts, so there is nothing to train on",
            where,
            "compare samples of more prompts: most of those in the samples' file are for training",
        )
    return add_noise(labels, task.config.noise, task.seed) if task.config.noise else labels


def add_noise(labels: Labels, fraction: float, seed: int) -> Labels:
    """The labels with a fraction of the decided comparisons of training prompts turned round. Comparisons that only measure stay right."""
    decided = [number for number, row in enumerate(labels.comparisons) if not row.tie and not row.heldout]
    wrong = set(draw(decided, round(len(decided) * fraction), derive_seed(seed, "noise")))
    rows = [turned(row) if number in wrong else row for number, row in enumerate(labels.comparisons)]
    return replace(labels, comparisons=rows, metrics=labels.metrics | {"turned": len(wrong)})
