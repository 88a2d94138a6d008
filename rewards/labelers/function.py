"""The user's own judge, named in `labeler.kind` as `module:function` or `file.py:function`.

    def judge(pairs):                              # rewards/labelers/picking.py: Pair has `first` and `second`, which are Samples
        return [float(len(pair.first.completion) < len(pair.second.completion)) for pair in pairs]

It is called with a few pairs at a time. All workers share the pairs, and finished verdicts are kept, so that no pair is judged twice
after an interruption. It may raise `configs.errors.WaitingForLabels` to end the run until its verdicts are there.
"""

from collections.abc import Sequence

from configs import user_functions
from rewards.labelers.labels import Labels, LabelTask
from rewards.labelers.pairs import Judge, Pair, checked_verdicts, label_by_judge

SHARD = 32
"""Pairs that the judge is given at once."""


def label(task: LabelTask) -> Labels:
    """Compare samples by the judge that the config names."""
    name = task.config.kind
    judge: Judge = user_functions.load(name)

    def judge_in_shards(pairs: Sequence[Pair]) -> Sequence[float | None]:
        return task.checkpoints.in_shards(
            "verdicts",
            pairs,
            SHARD,
            lambda shard: checked_verdicts(list(judge(shard)), shard, name),
            lambda done, _: task.report(done, len(pairs)),
        )

    return label_by_judge(task, judge_in_shards)
