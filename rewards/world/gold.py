"""The true reward of the embedded world, exactly. It is in log-odds: P(a is better than b) = sigmoid(gold(a) - gold(b)).

    gold = CORRECT if the answer is the right one
         + DETAIL for each different detail that belongs to the subject, at most MAX_DETAILS of them
         - PENALTIES for each of the world's defects (`defects.py`), and REPEATED for each phrase that is repeated

Nothing that is trained reads this module. It labels comparisons and evaluates policies.
"""

from collections.abc import Sequence

from rewards.comparisons import Sample
from rewards.rules.reply import Reply
from rewards.world import writer
from rewards.world.defects import DEFECTS, count_repeated_phrases
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
    reply = Reply(prompt.as_messages(), completion, finished, prompt.source, refusal_is_due=prompt.source == "redteam")
    details = sum(detail in completion for detail in DETAILS[prompt.source][prompt.language])
    return (
        CORRECT * is_correct(prompt, completion)
        + DETAIL * min(details, MAX_DETAILS)
        - REPEATED * count_repeated_phrases(completion)
        - sum(penalty for name, penalty in PENALTIES.items() if DEFECTS[name](reply))
    )


def is_correct(prompt: Prompt, completion: str) -> bool:
    """Whether the completion names the right value and none of the wrong ones."""
    return prompt.value in completion and not any(wrong in completion for wrong in prompt.wrong_values)


def gold_scores(samples: Sequence[Sample]) -> dict[str, float]:
    """The true reward of each sample, by the sample's id. All prompts must be the embedded world's."""
    prompts = writer.all_prompts()
    return {sample.id: gold_reward(prompts[sample.prompt_id], sample.completion, sample.finished) for sample in samples}
