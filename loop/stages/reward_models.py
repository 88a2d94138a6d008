"""What the three stages that train a reward model share: `labeler`, `reward` and `retrain`."""

from collections.abc import Sequence

from configs.errors import UserError
from loop.stages.context import Context
from policies.responses import ResponseRecord
from rewards.comparisons import Comparison
from rewards.reward_model import normalize_on_reference, reference_responses, train_reward_model
from rewards.scoring import Scorer


def fit_reward_model(context: Context, adapter: str, pairs: Sequence[Comparison], start: Scorer | None = None) -> Scorer:
    """Train a reward model that starts from the SFT adapter, as in arXiv 2009.01325, or from `start`. Its log is saved.

    Raises UserError if there is no pair to train on.
    """
    if not pairs:
        raise UserError(
            f"the {context.stage} stage has no pair to train a reward model on: there is none, or all are ties or held out",
            "the data and labels",
            "give more pairs of which one completion is better, or change the shares that are held out or kept for the labeler",
        )
    context.backbone.add_adapter(adapter, copy_of=start.adapter if start else "sft")
    scorer, log = train_reward_model(
        context.backbone,
        adapter,
        pairs,
        context.config.reward,
        context.checkpoints,
        context.seed(),
        context.report,
        head=start.head if start else None,
    )
    context.save_log(log)
    return scorer


def normalize(context: Context, scorer: Scorer) -> None:
    """Scale the scores on samples of the SFT policy: the same prompts and seeds in every round."""
    normalize_on_reference(scorer, reference_records(context))


def reference_records(context: Context) -> list[ResponseRecord]:
    """Responses of the SFT policy, which must be loaded: the same ones in every round."""
    return reference_responses(
        context.backbone,
        context.prompts("prompts"),
        context.config.reward.normalization_samples,
        context.config.generation,
        context.checkpoints,
        context.run_seed("normalization"),
    )
