"""Rules: checks of a completion that need no model. `evaluate.rules` names the ones that every policy is measured with.

A rule is a function that takes a `Reply` and returns a `Verdict`: what it measured, the threshold, and whether that is too much. The
docstring of each rule names the source of its threshold, and `docs/rules.md` has what they find on real text. The config may name a
built-in rule (`RULES`) or a function of yours, as `module:function` or `file.py:function`, which may return a truth value:

    def too_long(reply):
        return len(reply.text) > 400

Rules know nothing of the embedded world, which has its own definitions (rewards/world/defects.py). To add a rule, write a function from
`Reply` to `Verdict` in a file here, and enter it in RULES and in `RuleName` (configs/fields.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from configs import user_functions
from configs.fields import ExpectedLanguage
from rewards.rules import form, language, manners
from rewards.rules.duplicates import near_duplicate
from rewards.rules.repetition import repetition
from rewards.rules.reply import Reply, Rule
from rewards.rules.verdict import Verdict

RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        language.foreign_word,
        form.empty,
        form.list_only,
        repetition,
        form.footer,
        manners.refusal,
        language.wrong_language,
        form.missing_end,
        form.decomposed_sara_am,
        form.cut_off,
        manners.repeats_prompt,
        manners.greeting_list,
        near_duplicate,
    )
}
"""The built-in rules by name."""


Expectation = ExpectedLanguage | Callable[[Reply], ExpectedLanguage]
"""The language that answers should be in, or a function that tells it for each reply."""


@dataclass(frozen=True)
class Expecting:
    """A rule that is told which language is expected."""

    rule: Rule
    language: Expectation

    def __call__(self, reply: Reply) -> Verdict | bool:
        return self.rule(replace(reply, expected_language=self.language(reply) if callable(self.language) else self.language))


def find_rules(names: Sequence[str], expected_language: Expectation = "same") -> dict[str, Rule]:
    """The rules that a config names. Raises UserError for a user function that cannot be used.

    expected_language: what the rules are told about the language of the answers.
    """
    found = {name: RULES[name] if name in RULES else user_functions.load(name) for name in names}
    return {name: Expecting(rule, expected_language) for name, rule in found.items()} if expected_language != "same" else found


def judge(reply: Reply, rules: Mapping[str, Rule] = RULES) -> dict[str, Verdict]:
    """What each rule says about a reply, by the rule's name. A truth value counts as 1 or 0, of which 0 is accepted."""
    found = {name: rule(reply) for name, rule in rules.items()}
    return {name: said if isinstance(said, Verdict) else Verdict(name, float(bool(said)), 0.0) for name, said in found.items()}


def find_defects(reply: Reply, rules: Mapping[str, Rule] = RULES) -> dict[str, bool]:
    """Whether a reply has each defect, by the rule's name."""
    return {name: verdict.fires for name, verdict in judge(reply, rules).items()}
