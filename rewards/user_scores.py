"""Scores by a function of the user's: `select.kinds`, `ppo.score` and `evaluate.gold` may name the same one.

def score(answers):                    # rewards/comparisons.py: Answer has `prompt`, `completion` and `finished`
    return [-len(answer.completion) for answer in answers]
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

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
        given = function(answers)
        if not isinstance(given, Iterable):
            raise UserError(f"it gave no scores but {type(given).__name__}", name, "return a list with one score for each answer")
        scores = [_number(value, name) for value in list(given)]
        if len(scores) != len(answers):
            raise UserError(f"it gave {len(scores)} scores for {len(answers)} answers", name, "return one score for each answer")
        if bad := [value for value in scores if not math.isfinite(value)]:
            raise UserError(f"it gave the score {bad[0]}", name, "return a finite number for each answer")
        return scores

    return score


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"it gave the score {value!r}, which is no number", name, "return a finite number for each answer") from None


def by_function(name: str) -> ScoreFunction:
    """The score function that gives each response of PPO the user's score. It is called with a batch, whose prompts differ."""
    score = load_scores(name)

    def score_responses(records: Sequence[ResponseRecord]) -> list[float]:
        return score([Answer(record.prompt, record.completion, record.finished) for record in records])

    return score_responses
