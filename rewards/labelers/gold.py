"""The labeler of the embedded world. It knows the true reward: P(a is better than b) = sigmoid(gold(a) - gold(b))."""

from rewards.labelers.labels import Labels, LabelTask
from rewards.labelers.pairs import Judge, judge_by_scores, label_by_judge
from rewards.world.gold import gold_scores


def label(task: LabelTask) -> Labels:
    """Compare samples of the embedded world's prompts."""
    return label_by_judge(task, judge(task))


def judge(task: LabelTask) -> Judge:
    """The judge who knows the true reward of all that the task compares."""
    return judge_by_scores(gold_scores([*task.samples, *task.answers]))
