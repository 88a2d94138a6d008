"""Labelers: from a round's samples to comparisons. `labeler.kind` names one.

    gold                 the embedded world's true reward (gold.py)
    reward-model         a reward model that this run does not train (reward_model.py)
    rules                fewer defects are better (rules.py)
    preferences-file     comparisons that people or programs write into a file (preferences_file.py)
    file.py:function     the user's own judge, also as module:function (function.py)

All but the file pick pairs (picking.py) and have them judged (pairs.py). A file brings its own pairs. To add a labeler, write a
function from `LabelTask` to `Labels` and enter it here and in `LabelerConfig.kind` (configs/judging.py).
"""

from configs import user_functions
from configs.errors import UserError
from rewards.labelers import function, gold, preferences_file, reward_model, rules
from rewards.labelers.labels import Labeler, Labels, LabelTask

LABELERS: dict[str, Labeler] = {
    "gold": gold.label,
    "reward-model": reward_model.label,
    "rules": rules.label,
    "preferences-file": preferences_file.label,
}
"""The built-in labelers by name."""


def label(task: LabelTask) -> Labels:
    """Have the samples compared by the labeler that the config names. Raises UserError if no comparison can be trained on."""
    kind = task.config.kind
    labeler = function.label if user_functions.is_function(kind) else LABELERS[kind]
    labels = labeler(task)
    if labels.comparisons and all(row.heldout for row in labels.comparisons):
        raise UserError(
            f"all {len(labels.comparisons)} comparisons are of held-out prompts, so there is nothing to train on",
            str(task.config.path or task.samples_file),
            "compare samples of more prompts: most of those in the samples' file are for training",
        )
    return labels
