"""Scores by a function of the user's: `select.kinds`, `ppo.score` and `evaluate.gold` may name the same one.

def score(answers):                    # rewards/comparisons.py: Answer has `prompt`, `completion` and `finished`
    return [-len(answer.completion) for answer in answers]
"""

import functools
import math
from collections.abc import Callable, Sequence

from configs import user_functions
from configs.errors import UserError
from policies.responses import ResponseRecord, ScoreFunction
from rewards.comparisons import Answer

ScoreAnswers = Callable[[Sequence[Answer]], list[float]]


def load_scores(name: str) -> ScoreAnswers:
    """The function that a config names. What it returns is checked: a finite number for each answer, or UserError."""
    function = user_functions.load(name)

    @functools.wraps(function)
    def score(answers: Sequence[Answer]) -> list[float]:
        scores = [float(value) for value in function(answers)]
        if len(scores) != len(answers):
            raise UserError(f"it gave {len(scores)} scores for {len(answers)} answers", name, "return one score for each answer")
        if bad := [value for value in scores if not math.isfinite(value)]:
            raise UserError(f"it gave the score {bad[0]}", name, "return a finite number for each answer")
        return scores

    return score


def by_function(name: str) -> ScoreFunction:
    """The score function that gives each response of PPO the user's score. It is called with a batch, whose prompts differ."""
    score = load_scores(name)

    def score_responses(records: Sequence[ResponseRecord]) -> list[float]:
        return score([Answer(record.prompt, record.completion, record.finished) for record in records])

    return score_responses
