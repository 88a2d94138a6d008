"""Completions as rules see them. Answers to the embedded world's prompts are judged by the world's own definitions of its defects.

Only here do the general rules and the world meet: the rules know nothing of it.
"""

from collections.abc import Mapping

from rewards.comparisons import Prompt
from rewards.rules import find_defects
from rewards.rules.duplicates import Texts
from rewards.rules.reply import Reply, Rule
from rewards.world import writer
from rewards.world.defects import DEFECTS


def defects_of(
    prompt_id: str,
    prompt: Prompt,
    source: str,
    completion: str,
    finished: bool,
    rules: Mapping[str, Rule],
    others: Texts | None = None,
) -> dict[str, bool]:
    """Whether a completion of any prompt, of the embedded world or not, has each rule's defect.

    others: completions of other prompts that this one should not repeat, for the rules that compare.
    """
    known = writer.all_prompts().get(prompt_id)
    is_due = known is not None and known.source == "redteam"
    reply = Reply(prompt, completion, finished, source, refusal_is_due=is_due, others=others)
    return find_defects(reply, rules if known is None else {name: DEFECTS.get(name, rule) for name, rule in rules.items()})
