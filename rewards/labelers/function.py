"""The user's own judge, named in `labeler.kind` as `module:function` or `file.py:function`.

    def judge(pairs):                              # rewards/labelers/picking.py: Pair has `first` and `second`, which are Samples
        return [float(len(pair.first.completion) < len(pair.second.completion)) for pair in pairs]

It is called with a few pairs at a time. All workers share the pairs, and finished verdicts are kept, so that no pair is judged twice
after an interruption. It may raise `configs.errors.WaitingForLabels` to end the run until its verdicts are there.
"""

from collections.abc import Sequence

from configs import user_functions
from rewards.labelers.labels import LabelTask
from rewards.labelers.pairs import Judge, Pair, checked_verdicts

SHARD = 32
"""Pairs that the judge is given at once."""


def judge(task: LabelTask) -> Judge:
    """The judge that the config names. All workers share the pairs."""
    name = task.config.kind
    ask = user_functions.load(name)

    def in_shards(pairs: Sequence[Pair]) -> Sequence[float | None]:
        return task.checkpoints.in_shards(
            f"verdicts{task.part}",
            pairs,
            SHARD,
            lambda shard: checked_verdicts(ask(shard), shard, name),
            lambda done, _: task.report(done, len(pairs)),
        )

    return in_shards
