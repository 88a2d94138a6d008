"""Rules: checks of a completion that need no model. `evaluate.rules` names the ones that every policy is measured with.

A rule is a function that takes a `Reply` and returns whether it has the defect. The config may name a built-in rule (`RULES`) or a
function of yours, as `module:function` or `file.py:function`:

    def too_long(reply):
        return len(reply.text) > 400

To add a rule, write a function from `Reply` to a truth value in `builtin.py`, and enter it here and in `RuleName` (configs/judging.py).
The embedded world needs its rate in `DEFECT_RATES` (rewards/world/writer.py) and its cost in `PENALTIES` (rewards/world/gold.py).
"""

from collections.abc import Mapping, Sequence

from configs import user_functions
from rewards.rules import builtin
from rewards.rules.reply import Reply, Rule

RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        builtin.foreign_word,
        builtin.empty,
        builtin.list_only,
        builtin.repetition,
        builtin.footer,
        builtin.refusal,
        builtin.wrong_language,
        builtin.missing_end,
        builtin.decomposed_sara_am,
    )
}
"""The built-in rules by name."""


def find_rules(names: Sequence[str]) -> dict[str, Rule]:
    """The rules that a config names. Raises UserError for a user function that cannot be used."""
    return {name: RULES[name] if name in RULES else user_functions.load(name) for name in names}


def find_defects(reply: Reply, rules: Mapping[str, Rule] = RULES) -> dict[str, bool]:
    """Whether a reply has each defect, by the rule's name."""
    return {name: bool(rule(reply)) for name, rule in rules.items()}
