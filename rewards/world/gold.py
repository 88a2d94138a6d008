"""The true reward of the embedded world, exactly. In units of log-odds: P(a beats b) = sigmoid(gold(a) - gold(b)).

    gold = CORRECT if the answer is the right one
         + DETAIL for each different detail that belongs to the subject, at most MAX_DETAILS of them
         - PENALTIES for each defect of the notes that it shows, and REPEATED for every phrase said again

Nothing that is trained sees this module: it labels comparisons and evaluates policies.
"""

from rewards.rules import rules
from rewards.world.facts import DETAILS
from rewards.world.writer import Prompt

CORRECT = 2.0
DETAIL = 1.2
MAX_DETAILS = 2
REPEATED = 1.2
PENALTIES = {
    "foreign_word": 1.8,
    "empty": 1.5,
    "list_only": 1.2,
    "footer": 1.8,
    "refusal": 1.5,
    "wrong_language": 1.5,
    "missing_end": 1.5,
    "decomposed_sara_am": 0.9,
}


def gold_reward(prompt: Prompt, completion: str, finished: bool = True) -> float:
    """The true reward of one completion, in log-odds (4.4 at best)."""
    defects = rules.find_defects(prompt.question, completion, finished, refusal_is_due=prompt.source == "redteam")
    details = sum(detail in completion for detail in DETAILS[prompt.source][prompt.language])
    return (
        CORRECT * is_correct(prompt, completion)
        + DETAIL * min(details, MAX_DETAILS)
        - REPEATED * rules.count_repeated_phrases(completion)
        - sum(penalty for name, penalty in PENALTIES.items() if defects[name])
    )


def is_correct(prompt: Prompt, completion: str) -> bool:
    """The right value is named and none of the wrong ones."""
    return prompt.value in completion and not any(wrong in completion for wrong in prompt.wrong_values)
