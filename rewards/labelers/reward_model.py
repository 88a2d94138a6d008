"""A reward model that labels in place of people. It was trained on pairs that the run itself never sees, or comes from elsewhere.

P(a is better than b) = sigmoid(score(a) - score(b)), as in the Bradley-Terry model that it was trained with. A pair with a text that the
model cannot read is left out.
"""

import math

from rewards.comparisons import win_probability
from rewards.labelers.labels import LabelTask
from rewards.labelers.pairs import Judge, Verdict
from rewards.labelers.picking import Pair
from rewards.scoring import score_in_shards

TOO_LONG = "too long for the reward model"


def judge(task: LabelTask) -> Judge:
    """The judge who has scored all that the task compares, on all workers."""
    scorer = task.get_scorer()
    scores = score_in_shards(scorer, task.samples, task.checkpoints, task.report)
    scores |= score_in_shards(scorer, task.answers, task.checkpoints, task.report, "answer-scores")
    scorer.release()

    def say(pair: Pair) -> float | Verdict:
        difference = scores[pair.first.id] - scores[pair.second.id]
        return Verdict(None, unusable=TOO_LONG) if math.isnan(difference) else win_probability(difference)

    return lambda pairs: [say(pair) for pair in pairs]
