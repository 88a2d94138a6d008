"""A selector as the score function of PPO: each response is scored alone. It must not look at other candidates, so not every kind fits."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from policies.responses import ResponseRecord, ScoreFunction
from rewards.comparisons import Answer
from rewards.scoring import SMALLEST_STD
from rewards.selectors.selector import Candidates, Selector


def as_score_function(selector: Selector) -> ScoreFunction:
    """The score function that gives each response the selector's score."""

    def score(records: Sequence[ResponseRecord]) -> torch.Tensor:
        groups = [Candidates(r.prompt_id, r.prompt, r.source, [Answer(r.prompt, r.completion, r.finished)]) for r in records]
        # Responses of PPO are seen once, so what is measured of them is not kept longer than a batch.
        now = selector.using(replace(selector.tools, measured={}))
        return torch.tensor([scores[0] for scores in now.score(groups)])

    return score


def centred(score: ScoreFunction, records: Sequence[ResponseRecord]) -> ScoreFunction:
    """The score function minus its mean on some responses of the reference policy.

    The scale stays. A critic need not learn the offset, and 0 means "as good as the reference".
    """
    mean = torch.as_tensor(score(records), dtype=torch.float32).mean()
    return lambda responses: torch.as_tensor(score(responses), dtype=torch.float32) - mean


def normalized(score: ScoreFunction, records: Sequence[ResponseRecord]) -> ScoreFunction:
    """The score function, shifted and scaled to mean 0 and standard deviation 1 on some responses of the reference policy.

    Of several reward models, each has that scale. Their mean has a smaller standard deviation, and their minimum a lower mean, the more of
    them there are. Without this, a KL coefficient would mean something else in each round.
    """
    scores = torch.as_tensor(score(records), dtype=torch.float32)
    mean, std = scores.mean(), scores.std().clamp(min=SMALLEST_STD)
    return lambda responses: (torch.as_tensor(score(responses), dtype=torch.float32) - mean) / std
