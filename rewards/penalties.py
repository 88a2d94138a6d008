"""Rules as penalties in what PPO maximizes (`ppo.penalties`): score - the sum of the penalties of all defects that are found."""

from collections.abc import Mapping, Sequence

import torch

from policies import parallel
from policies.responses import ResponseRecord, ScoreFunction
from rewards.rules.duplicates import texts_to_compare
from rewards.rules.reply import Rule
from rewards.world.replies import defects_of


def penalized(score: ScoreFunction, rules: Mapping[str, Rule], penalties: Mapping[str, float]) -> ScoreFunction:
    """The score function minus the penalty of each rule that fires. A rule that compares is given the other responses of the batch.

    These are the responses of all workers, which then must call the function at the same time, as PPO does.
    """
    compares = texts_to_compare(rules) is not None

    def with_penalties(records: Sequence[ResponseRecord]) -> torch.Tensor:
        others = texts_to_compare(rules, parallel.gather([(r.prompt, r.completion) for r in records]) if compares else ())
        found = [defects_of(r.prompt_id, r.prompt, r.source, r.completion, r.finished, rules, others) for r in records]
        costs = [sum(penalties[name] for name, has in defects.items() if has) for defects in found]
        return torch.as_tensor(score(records), dtype=torch.float32) - torch.tensor(costs, dtype=torch.float32)

    return with_penalties
