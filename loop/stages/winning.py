"""Is this round's policy better than the SFT policy and than the last round's? What they answer, what the labeler says of it, and whether
the policy exploits its reward."""

from collections.abc import Sequence
from dataclasses import replace

from configs.judging import prompts_compared
from configs.seeds import derive_seed, draw
from loop.stages.context import Context, Metrics
from loop.store.measures import WARNINGS
from rewards import overoptimization, win_rates
from rewards.baselines import fit_bag_of_words
from rewards.comparisons import Answer, Comparison, PromptRecord, Sample, answer_id, read_jsonl
from rewards.evaluation import Evaluation, defect_rates
from rewards.measurements import Measurement, Summary, summarize
from rewards.overoptimization import Evidence
from rewards.rules import find_rules

WINS = "wins.jsonl"
"""The comparisons of policies, in the output of the `label` stage."""


def answer(context: Context) -> Metrics:
    """The answers of this round's policy, of the last round's, and of the SFT policy to the same held-out prompts, one each.

    They are the same prompts in every round, so the others' answers come from the last round's output. Each policy draws with seeds of its
    own. With common ones, two policies that are nearly the same would tie more often than their users would see.
    """
    backbone, last = context.backbone_with_sft(), context.inputs.get("last")
    number = context.round or 0
    asked = draw(
        context.prompts("heldout_prompts"),
        prompts_compared(context.config.labeler, context.config.sample.num_prompts),
        context.run_seed("win-rate"),
    )
    backbone.add_adapter("policy", folder=context.inputs["policy"])
    answers = _answers_of(context, "policy", asked, number)
    if last:
        others = [old for old in read_jsonl(last / "samples.jsonl", Sample) if old.generation in (None, number - 1)]
        answers += [replace(old, id=answer_id(number, old.generation, old.prompt_id)) for old in others]
    else:
        answers += _answers_of(context, "sft", asked, None)
    context.save_rows("samples.jsonl", answers)
    context.drop_adapters("policy")
    return {"answers_compared": len(answers), "length": summarize([a.num_tokens for a in answers if a.generation == number])["mean"]}


def win_metrics(context: Context) -> Metrics:
    """How often the labeler prefers this round's policy, where it was asked."""
    wins = context.inputs["labels"][-1] / WINS
    return win_rates.measure(read_jsonl(wins, Comparison)) if wins.exists() else {}


def judge_policy(context: Context, found: Evaluation, sft_scores: Measurement, metrics: Metrics) -> Metrics:
    """Whether the policy exploits its reward, by all signs together, with a warning if it does. metrics: what `evaluate` has so far."""
    sft = read_jsonl(context.inputs["baseline"] / "samples.jsonl", Sample)
    signs = overoptimization.find_signs(
        Evidence(
            defects=found.defects,
            sft_defects=defect_rates(sft, find_rules(context.config.evaluate.rules, context.config.rules.expected_language)),
            lengths=found.measured["length"].values,
            sft_lengths=[sample.num_tokens for sample in sft],
            scores=found.measured["proxy_score"],
            sft_scores=sft_scores,
            kl=found.measured["kl"].values,
            other_gain=_by_bag_of_words(context, found.samples, sft),
            fresh_accuracy=metrics["reward_accuracy"].get(f"round-{context.round or 0:03d}"),
            win_rate=metrics.get("win_rate", {}),
            best_of=metrics.get("best_of", {}),
        )
    )
    warning = overoptimization.warn(signs)
    return {"overoptimization": overoptimization.summary(signs)} | ({WARNINGS: [warning]} if warning else {})


def _answers_of(context: Context, adapter: str, asked: Sequence[PromptRecord], policy_round: int | None) -> list[Sample]:
    name = "sft" if policy_round is None else policy_round
    seeds = [derive_seed(context.run_seed("win-rate"), name, record.prompt_id) for record in asked]
    responses = context.sampler.respond(adapter, asked, seeds, f"answers-{name}")
    digest = context.digest(adapter)
    answers = [
        replace(
            context.sampler.make_sample(answer_id(context.round or 0, policy_round, record.prompt_id), record, response, policy_round),
            policy=digest,
        )
        for record, response in zip(asked, responses, strict=True)
    ]
    return context.sampler.shown(answers, f"answers-{name}")


def _by_bag_of_words(context: Context, own: Sequence[Sample], sft: Sequence[Sample]) -> Summary | None:
    """The policy's gain by a bag of words that is fitted on held-out comparisons, on which no reward model was trained."""
    heldout = [*context.pairs("heldout_pairs"), *(row for rows in context.labels() for row in rows if row.heldout)]
    decided = [row for row in heldout if not row.tie]
    if not decided:
        return None
    score = fit_bag_of_words(decided)
    gains = [a - b for a, b in zip(*(score([Answer(s.prompt, s.completion, s.finished) for s in of]) for of in (own, sft)), strict=True)]
    return Measurement(gains, [sample.prompt_id for sample in own]).mean()
