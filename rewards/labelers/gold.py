"""The labeler of the embedded world. It knows the true reward: P(a is better than b) = sigmoid(gold(a) - gold(b))."""

from rewards.labelers.labels import LabelTask
from rewards.labelers.pairs import Judge, judge_by_scores
from rewards.world.gold import gold_scores


def judge(task: LabelTask) -> Judge:
    """The judge who knows the true reward of all that the task compares."""
    return judge_by_scores(gold_scores([*task.samples, *task.answers]))
