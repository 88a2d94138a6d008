"""A reward model that labels in place of people. It was trained on pairs that the run itself never sees, or comes from elsewhere.

P(a is better than b) = sigmoid(score(a) - score(b)), as in the Bradley-Terry model that it was trained with.
"""

from rewards.labelers.labels import Labels, LabelTask
from rewards.labelers.pairs import Judge, judge_by_scores, label_by_judge
from rewards.scoring import score_in_shards


def label(task: LabelTask) -> Labels:
    """Score all samples, on all workers, and compare them by their scores."""
    return label_by_judge(task, judge(task))


def judge(task: LabelTask) -> Judge:
    """The judge who has scored the task's samples, on all workers."""
    scorer = task.get_scorer()
    scores = score_in_shards(scorer, task.samples, task.checkpoints, task.report)
    scorer.release()
    return judge_by_scores(scores)
