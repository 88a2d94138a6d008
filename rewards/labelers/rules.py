"""The labeler that counts defects: of two completions, the one with fewer defects of `labeler.rules` is better. Equal numbers are a tie."""

from collections.abc import Sequence

from rewards.comparisons import Sample
from rewards.labelers.labels import LabelTask
from rewards.labelers.pairs import Judge
from rewards.labelers.picking import Pair
from rewards.rules import find_rules
from rewards.world.replies import defects_of


def judge(task: LabelTask) -> Judge:
    """The judge who counts the defects of both completions."""
    rules = find_rules(task.config.rules, task.expected_language)

    def count(sample: Sample) -> int:
        found = defects_of(sample.prompt_id, sample.prompt, sample.source, sample.completion, sample.finished, rules)
        return sum(found.values())

    def judge_pairs(pairs: Sequence[Pair]) -> list[float | None]:
        counts = [(count(pair.first), count(pair.second)) for pair in pairs]
        return [None if first == second else float(first < second) for first, second in counts]

    return judge_pairs
