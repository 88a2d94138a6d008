"""Completions as rules see them. Answers to the embedded world's prompts are judged by the world's own definitions of its defects.

Only here do the general rules and the world meet: the rules know nothing of it.
"""

from collections.abc import Mapping
from dataclasses import replace

from rewards.comparisons import Prompt
from rewards.rules import Expecting, find_defects
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
    return find_defects(reply, rules if known is None else {name: _of_the_world(name, rule) for name, rule in rules.items()})


def _of_the_world(name: str, rule: Rule) -> Rule:
    """The world's own definition of a defect, if it has one, told what the rule is told."""
    own = DEFECTS.get(name, rule)
    return replace(rule, rule=own) if own is not rule and isinstance(rule, Expecting) else own
