"""What the stages that train a reward model share: `labeler`, `reward` and `retrain`, and `pmp` before them. Not `retrain`, but the others
judge it beside baselines."""

from collections.abc import Sequence

from configs.errors import UserError
from loop.stages.context import Context, Metrics
from loop.store.measures import WARNINGS
from policies.responses import ResponseRecord
from rewards.baselines import BAG_OF_WORDS, SHORTER, describe_unbeaten, find_unbeaten, fit_bag_of_words, judge_beside, shortest
from rewards.comparisons import Comparison
from rewards.reward_model import normalize_on_reference, reference_responses, train_reward_model
from rewards.scoring import AnswerScorer, Scorer

PRETRAINED = "pmp"
"""The adapter of preference-model pretraining."""
ADVICE = "give more pairs or a larger base, or choose by features beside the score"


def trainable(context: Context, pairs: Sequence[Comparison]) -> list[Comparison]:
    """The pairs that a reward model can be trained on: ties say something only where targets are soft (`reward.targets`)."""
    return [pair for pair in pairs if not pair.tie or context.config.reward.targets == "soft"]


def fit_reward_model(context: Context, adapter: str, pairs: Sequence[Comparison], start: Scorer | None = None) -> Scorer:
    """Train a reward model that starts from `start`, else from preference-model pretraining (`reward.init`), else from the SFT adapter, as
    in arXiv 2009.01325. Its log is saved.

    Raises UserError if there is no pair to train on.
    """
    if not pairs:
        raise UserError(
            f"the {context.stage} stage has no pair to train a reward model on: there is none, or all are ties or held out",
            "the data and labels",
            "give more pairs of which one completion is better, or change the shares that are held out or kept for the labeler",
        )
    if start is None and is_pretrained(context):
        start = Scorer.load(context.backbone, PRETRAINED, context.inputs[PRETRAINED])
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
    context.drop_adapters(PRETRAINED)
    return scorer


def is_pretrained(context: Context) -> bool:
    """Whether the run's reward models start from preference-model pretraining."""
    return bool(context.inputs.get(PRETRAINED))


def start_of(context: Context) -> str:
    """Where a reward model starts that does not start from an earlier one, as a metric."""
    return PRETRAINED if is_pretrained(context) else "sft"


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


def judge_reward_model(
    context: Context,
    scorer: AnswerScorer,
    training: Sequence[Comparison],
    model: str,
    danger: str,
    advice: str = ADVICE,
    heldout: Sequence[Comparison] | None = None,
) -> Metrics:
    """A reward model on held-out pairs, beside simple baselines. One of them is fitted on `training`.

    If the reward model does not beat each of them by more than a standard error, the metrics hold a warning. model: what the model is
    called there. danger: what this means for the run. advice: what to do about it. heldout: the pairs, if not all original ones are meant.
    """
    baselines = {SHORTER: shortest, BAG_OF_WORDS: fit_bag_of_words(training)}
    found = judge_beside(scorer.score_answers, baselines, context.pairs("heldout_pairs") if heldout is None else heldout)
    unbeaten = find_unbeaten(found, baselines)
    if not unbeaten:
        return dict(found)
    return {**found, WARNINGS: [f"{describe_unbeaten(model, found, unbeaten)}, so {danger}: {advice}"]}
