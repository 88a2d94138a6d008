"""The stage in which somebody compares the samples of a round."""

from pathlib import Path

from loop.stages.context import Context, Metrics
from loop.stages.ready_models import load_recorded
from loop.stages.winning import WINS
from rewards.comparisons import Comparison, Sample, read_jsonl
from rewards.data.splits import Split
from rewards.labelers import committee as committees
from rewards.labelers import registry as labelers
from rewards.labelers.labels import Earlier, LabelTask
from rewards.scoring import AnswerScorer, Scorer
from rewards.shown import as_shown, in_pivot


def label(context: Context) -> Metrics:
    """The labeler turns samples into comparisons. It may raise WaitingForLabels.

    With `labeler.late: use`, labels that came too late for their own round are among them. Those that compare policies are in a file of
    their own, which nothing is trained on. Labelers see the answers as people do, and the comparisons are of what the policy wrote.
    """
    labels = labelers.label(_label_task(context))
    folders = [context.inputs["samples"], *context.inputs.get("earlier_samples", [])]
    samples, covers = [sample for folder in folders for sample in _samples_in(folder)], context.pivot.covers if context.pivot else None
    labels.comparisons, left_out = in_pivot(labels.comparisons, samples, covers)
    labels.left_out += left_out
    context.save_rows("comparisons.jsonl", labels.comparisons)
    if context.inputs.get("answers"):
        context.save_rows(WINS, labels.wins)
    return labels.counts()


def _label_task(context: Context) -> LabelTask:
    config, inputs, folder = context.config, context.inputs, context.inputs["samples"]
    return LabelTask(
        samples=_shown_in(folder),
        samples_file=folder / "samples.jsonl",
        round_number=context.round or 0,
        config=config.labeler,
        split=Split(config.seed, config.data.heldout_fraction),
        seed=context.seed(),
        checkpoints=context.checkpoints,
        report=context.report,
        get_limits=lambda: context.limits,
        is_normalized=config.data.normalize and config.data.source != "embedded",
        get_scorer=lambda: _labeling_model(context),
        expected_language=config.rules.expected_language,
        committee=committees.read(context.inputs["committee"]) if context.inputs.get("committee") else {},
        judge=config.judge,
        answers=_shown_in(inputs["answers"]) if inputs.get("answers") else (),
        earlier=[
            Earlier(number, _shown_in(samples), [as_shown(row) for row in read_jsonl(labels / "comparisons.jsonl", Comparison)])
            for number, (samples, labels) in enumerate(zip(inputs.get("earlier_samples", []), inputs.get("labels", []), strict=True))
        ],
    )


def _labeling_model(context: Context) -> AnswerScorer:
    if context.config.labeler.model:
        return load_recorded(context)
    return Scorer.load(context.backbone, "labeler", context.inputs["labeler"])


def _samples_in(folder: Path) -> list[Sample]:
    return read_jsonl(folder / "samples.jsonl", Sample)


def _shown_in(folder: Path) -> list[Sample]:
    """The samples as labelers see them."""
    return [as_shown(sample) for sample in _samples_in(folder)]
