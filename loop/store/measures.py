"""What each metric of a run means: unit, which direction is better, and which metrics a stage shows when it is done.

Stages return metrics by name; the terminal, `status` and documents look the names up here. A test checks that every metric of a
run is known. `X_over_Y` is known wherever X is: it is X minus the X of Y, item by item. Must never import torch or Ray.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from loop.store.estimates import MEANS, estimate, is_number, mean_in

Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class Measure:
    """What a metric is. `better`: which direction is better, None where neither is. `difference`: it is shown with a sign."""

    meaning: str
    unit: str
    better: Direction | None = None
    difference: bool = False


ROWS, TEXTS, FRACTION = "rows", "count by text", "fraction"
LOG_ODDS, NATS, TOKENS, DEVIATIONS = "log-odds", "nats per response", "tokens", "standard deviations"
SCORE = f"{DEVIATIONS}; with ppo.score=features, from round 1 on, {LOG_ODDS}"

MEASURES: dict[str, Measure] = {
    # data and labels
    "pairs": Measure("comparisons that are trained on", ROWS),
    "heldout_pairs": Measure("comparisons of held-out prompts", ROWS),
    "labeler_pairs": Measure("comparisons that only the labeling reward model is trained on", ROWS),
    "answers": Measure("single answers that SFT is trained on", ROWS),
    "answers_left_out": Measure("single answers that were left out, by reason", TEXTS),
    "prompts": Measure("training prompts", ROWS),
    "heldout_prompts": Measure("held-out prompts", ROWS),
    "ties": Measure("comparisons that are ties", ROWS),
    "skipped": Measure("rows that cannot be used, by reason", TEXTS),
    "normalized": Measure("texts that were normalized, by what was changed", TEXTS),
    "by_source": Measure("training comparisons by source", TEXTS),
    "pivoted": Measure("rows whose prompt is answered in the pivot language", ROWS),
    "translated": Measure("different texts that were translated", "count"),
    "translator": Measure("who translates", "text"),
    "pivot": Measure(
        "answers in the pivot language: their share of all; of those, the share in another language, and the share shown as it is", FRACTION
    ),
    "ledger": Measure("what happened to the rows of each source: original = kept + removed + moved", ROWS),
    "duplicates": Measure("comparisons that repeat an earlier one", ROWS, "lower"),
    "contradictions": Measure("pairs of completions of which each has been preferred to the other", ROWS, "lower"),
    "near_heldout": Measure("training prompts that are nearly equal to a held-out one", ROWS, "lower"),
    "win_comparisons": Measure("comparisons of this round's policy with other policies, on which nothing is trained", ROWS),
    "left_out": Measure("rows that were left out, by reason", TEXTS),
    "answers_compared": Measure("answers of the policies that are compared; the new ones among them are drawn in this round", ROWS),
    "samples": Measure("completions that the policy wrote", ROWS),
    "different": Measure("different completions among the samples", ROWS, "higher"),
    "comparisons": Measure("comparisons from the labeler", ROWS),
    "heldout": Measure("comparisons from the labeler on held-out prompts", ROWS),
    "agreement": Measure("pairs of samples that both models of the committee put into the same order", FRACTION),
    "picked": Measure("comparisons from the labeler on training prompts, by how their pairs were picked", TEXTS),
    "labels_read": Measure("labels in the files, each row and each annotation", ROWS),
    "labels_wanted": Measure("how many pairs the run waits for", "pairs"),
    "votes": Measure("labels that are used: one for each rater and pair", ROWS),
    "unmatched": Measure("rows of label files that cannot be used, by place", "text"),
    "raters": Measure("raters who labeled in this round", "count"),
    "rater_alpha": Measure("Krippendorff's alpha (nominal) of the raters: 1 is perfect agreement, 0 is chance", "alpha", "higher"),
    "rater_accuracy": Measure("the probability that a rater is right, by `labeler.raters: dawid-skene`", FRACTION, "higher"),
    "late": Measure("labels of earlier rounds that came too late for them and are used now", ROWS),
    "by_part": Measure("comparisons by the part of the mixture that they come from", TEXTS),
    "labeled_twice": Measure("pairs that several parts of a mixture have labeled", "pairs"),
    "parts_agree": Measure("of the pairs that several parts have labeled, those that they label alike", FRACTION, "higher"),
    "parts_alpha": Measure("Krippendorff's alpha (nominal) of the parts", "alpha", "higher"),
    "turned": Measure("comparisons whose two answers `labeler.noise` has swapped", ROWS),
    "judge_replies": Measure("replies of the judge that the labels use", "count"),
    "judge_input": Measure("tokens that the judge was sent", TOKENS),
    "judge_output": Measure("tokens that the judge replied", TOKENS),
    "judge_cost": Measure("what the replies of the judge cost, by `judge.price_input` and `judge.price_output`", "currency", "lower"),
    "mixture": Measure("rows that are trained on, by origin", TEXTS),
    "groups": Measure("prompts with candidates that the selector is trained on", ROWS),
    "heldout_comparisons": Measure("comparisons on which the selector is evaluated", ROWS),
    "generated": Measure("completions of the round's policy that may be kept", ROWS),
    "carried": Measure("completions that the last round has kept, and that this round may keep again", ROWS),
    "kept": Measure("completions that are kept as training data", ROWS),
    "newly_kept": Measure("completions drawn in this round that are kept, by the source of their prompt", TEXTS),
    "kept_by_round": Measure("kept completions by the round whose policy wrote them", TEXTS),
    "rows": Measure("completions that the policy is fine-tuned on", ROWS),
    "warnings": Measure("what the user should know before the run continues", "text"),
    "functions": Measure("the user's functions and model folders that the stage used, with the hashes of their files", "text"),
    # training
    "commit": Measure("the commit of a model from the hub", "text"),
    "dialogues": Measure("dialogues that the tiny base is trained on", ROWS),
    "loss": Measure("training loss at the end", "nats", "lower"),
    "updates": Measure("PPO updates", "count"),
    "memory": Measure("bytes in use at the end of training, by what uses them", "bytes", "lower"),
    "objective/scores_first_updates": Measure("mean score in the first PPO updates", SCORE, "higher"),
    "objective/scores_last_updates": Measure("mean score in the last PPO updates", SCORE, "higher"),
    "heldout_look": Measure(
        "what the last check on held-out prompts found, compared with the SFT policy (docs/win-rate.md#the-guard)", "mixed"
    ),
    "alarm_update": Measure("after how many PPO updates the policy first seemed to exploit its reward", "count"),
    "policy_update": Measure("the number of PPO updates of the policy that the guard has chosen", "count"),
    "objective/kl_last_updates": Measure("KL divergence from the reference in the last PPO updates", NATS),
    "reference": Measure(
        "the policy that PPO measures the KL divergence from: `sft`, or `start`, where PPO starts; for DPO always `sft`", "text"
    ),
    "val/response_length_last_update": Measure("mean response length in the last PPO update", TOKENS),
    "policy/entropy_avg_last_update": Measure("mean entropy of a token in the last PPO update", "nats per token"),
    "accuracy": Measure("accuracy on the batch that is trained on", FRACTION, "higher"),
    "objective/scores": Measure("mean score of the update's responses", SCORE, "higher"),
    "objective/kl": Measure("KL divergence from the reference in the update", NATS),
    "policy/entropy_avg": Measure("mean entropy of a token in the update", "nats per token"),
    "val/response_length": Measure("mean response length in the update", TOKENS),
    # policies
    "gold": Measure("true reward of the embedded world", LOG_ODDS, "higher"),
    "gold_seen_facts": Measure("true reward on facts that training prompts ask about too", LOG_ODDS, "higher"),
    "gold_unseen_facts": Measure("true reward on facts that no training prompt asks about", LOG_ODDS, "higher"),
    "proxy_score": Measure("score by the round's own reward model; not comparable across rounds", DEVIATIONS, "higher"),
    "proxy_gain": Measure("score minus that of the SFT policy, by the round's reward model", DEVIATIONS, "higher", difference=True),
    "win_rate": Measure(
        "how often the labeler prefers the policy to the SFT policy and to the last round's, where a tie is one half; with a 95 % interval",
        FRACTION,
        "higher",
    ),
    "length_controlled_win_rate": Measure("the win rate that both answers would have if they were equally long", FRACTION, "higher"),
    "win_ties": Measure("ties among the comparisons for the win rate", FRACTION),
    "win_agreement": Measure("Krippendorff's alpha (nominal) of several raters on the pairs for the win rate", "alpha", "higher"),
    "overoptimization": Measure("whether the policy seems to exploit its reward, and the signs of that (docs/win-rate.md)", "text"),
    "kl": Measure("KL divergence from the SFT policy", NATS),
    "length": Measure("mean response length", TOKENS),
    "defects": Measure("responses with each defect", FRACTION, "lower"),
    # reward models and selectors
    "normalization": Measure("mean and standard deviation of raw scores on the reference policy's samples", LOG_ODDS),
    "accuracy_heldout": Measure("accuracy on the original held-out comparisons", FRACTION, "higher"),
    "accuracy_original": Measure(
        "only for the stage `pmp`: accuracy on the run's original held-out comparisons (its `accuracy_heldout` is on held-out votes)",
        FRACTION,
        "higher",
    ),
    "start": Measure(
        "where the reward model starts: `sft`, `pmp`, `last` (this round's reward model), or `retrained` (unchanged from there)",
        "text",
    ),
    "shorter_wins": Measure('accuracy of "the shorter completion wins" on the same comparisons', FRACTION),
    "bag_of_words": Measure("accuracy of a bag of words that is fitted on the same training comparisons", FRACTION),
    "accuracy_over_shorter_wins": Measure('accuracy minus that of "the shorter completion wins"', FRACTION, "higher", difference=True),
    "accuracy_over_bag_of_words": Measure("accuracy minus that of the bag of words", FRACTION, "higher", difference=True),
    "accuracy_fresh_before": Measure("accuracy on this round's held-out comparisons before retraining", FRACTION, "higher"),
    "accuracy_fresh": Measure("accuracy on this round's held-out comparisons after retraining", FRACTION, "higher"),
    "accuracy_fresh_gain": Measure("what retraining added to the accuracy on fresh comparisons", FRACTION, "higher", difference=True),
    "reward_accuracy": Measure("accuracy of the round's reward model, by origin of the comparisons", FRACTION, "higher"),
    "retrained_accuracy": Measure("accuracy of the retrained reward model, by origin of the comparisons", FRACTION, "higher"),
    "retrained_gain": Measure("what retraining added to the accuracy, by origin", FRACTION, "higher", difference=True),
    "judged": Measure("accuracy of each selector on this round's held-out comparisons", FRACTION, "higher"),
    "judged_before": Measure("the same for the last round's selectors, which have not seen this round's policy", FRACTION, "higher"),
    "probe_agreement": Measure("prompts that get the same answer when they are written a little differently", FRACTION, "higher"),
    "probe_similarity": Measure("share of words in common between these two answers", FRACTION, "higher"),
    "probe_score_gap": Measure("absolute difference between the reward model's scores of these two answers", DEVIATIONS, "lower"),
    "best_of": Measure("gold of the chosen one of several completions, by who chooses", LOG_ODDS, "higher"),
    "best_of_unseen_facts": Measure("the same on facts that no training prompt asks about", LOG_ODDS, "higher"),
}

RUNNING: dict[str, Measure] = {
    "steps_done": Measure("steps that the running stage has done: updates, batches or samples", "count"),
    "steps_wanted": Measure("how many steps the running stage has", "count"),
    "steps_per_second": Measure("steps in a second", "1/s", "higher"),
    "samples_per_second": Measure("completions that are sampled in a second", "1/s", "higher"),
    "tokens_per_second": Measure("tokens of completions that are sampled in a second", "1/s", "higher"),
    "labels_waiting": Measure("pairs that the running stage still wants labels of", "pairs", "lower"),
    "seconds": Measure("seconds that the finished stage took", "s", "lower"),
}
"""What those who watch a run find out from its progress. No stage reports these, so they are in no manifest."""

COUNTERS: dict[str, Measure] = {
    "steps_made": Measure("steps that were done", "count"),
    "samples_made": Measure("completions that were sampled", "count"),
    "tokens_made": Measure("tokens of completions that were sampled", "count"),
    "stages_made": Measure("stages that were finished", "count"),
}
"""The same as sums that only grow, until Ray starts again."""

HEADLINES: dict[str, tuple[str, ...]] = {
    "data": ("pairs", "heldout_pairs", "answers", "skipped", "normalized", "duplicates", "contradictions", "near_heldout"),
    "base": ("loss",),
    "filter": ("pairs", "heldout_pairs", "heldout_prompts", "left_out"),
    "pivot": ("pairs", "prompts", "heldout_prompts", "pivoted", "translated", "left_out"),
    "sft": ("loss",),
    "pmp": ("pairs", "accuracy_heldout", "shorter_wins", "bag_of_words", "accuracy_original"),
    "labeler": ("accuracy_heldout", "shorter_wins", "bag_of_words"),
    "baseline": ("gold", "gold_unseen_facts", "length"),
    "reward": ("accuracy_heldout", "shorter_wins", "bag_of_words"),
    "policy": (
        "pairs",
        "loss",
        "accuracy",
        "objective/scores_first_updates",
        "objective/scores_last_updates",
        "objective/kl_last_updates",
        "alarm_update",
        "policy_update",
        "reference",
    ),
    "sample": ("samples", "different", "length"),
    "committee": ("samples", "agreement"),
    "answer": ("answers_compared", "length"),
    "label": ("comparisons", "heldout", "ties", "win_comparisons", "left_out", "rater_alpha", "parts_agree", "judge_replies", "judge_cost"),
    "retrain": ("pairs", "accuracy_fresh_before", "accuracy_fresh", "accuracy_fresh_gain"),
    "select": ("judged", "judged_before"),
    "keep": ("generated", "kept", "gold", "gold_over_samples"),
    "refresh": ("rows", "loss"),
    "evaluate": ("gold", "gold_over_sft", "gold_over_last", "gold_unseen_facts", "win_rate", "proxy_gain", "kl", "length", "best_of"),
}
"""The metrics in the line of a finished stage, in order. `status --json` has all metrics."""

WARNINGS = "warnings"
"""The metric by which a stage warns the user: a list of texts. The terminal prints them below the stage's line, and so does `status`. As
all metrics they are in the stage's manifest and in the journal. A stage that has nothing to warn of leaves the metric out."""

LIVE = ("objective/scores", "objective/kl", "policy/entropy_avg", "val/response_length", "loss", "accuracy", "length")
"""The metrics of a running stage that the terminal and its log show, where the stage reports them."""


def name_on_ray(name: str) -> str:
    """The name under which Ray serves a metric, without the `ray_` that Ray puts before it: `objective/kl` is `loop_objective_kl`."""
    return f"loop_{re.sub('[^a-zA-Z0-9]', '_', name)}"


TAGS_ON_RAY = ("run", "round", "stage", "part")
"""The tags of each metric that Ray serves. part: see `Number`."""


def find_measure(name: str) -> Measure | None:
    """What a metric is; None where the name is not known."""
    if name in MEASURES:
        return MEASURES[name]
    of, over, other = name.partition("_over_")
    if over and of in MEASURES:
        return replace(MEASURES[of], meaning=f"{MEASURES[of].meaning}, minus that of {other}", difference=True)
    return None


class Number(NamedTuple):
    """One number of a metric. `part` is empty if the metric is one number, else it names the part, for example a rule or an origin."""

    name: str
    part: str
    value: float


def numbers(metrics: Mapping[str, Any]) -> Iterator[Number]:
    """Every finite number in a stage's metrics. Of a summary it is the mean; its standard error and its count are left out."""
    for name, value in metrics.items():
        for parts, number in _leaves(value):
            yield Number(name, ".".join(parts), number)


def _leaves(value: Any) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(value, dict) and "standard_error" in value:
        yield from _leaves(mean_in(value))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (((str(key), *parts), number) for parts, number in _leaves(item))
    elif is_number(value):
        yield (), float(value)


def headline(stage: str, metrics: Mapping[str, Any]) -> str:
    """The few numbers that tell how a stage went, as one line of text."""
    words = []
    for name in HEADLINES.get(stage, ()):
        value, measure = metrics.get(name), find_measure(name)
        if value not in (None, {}):
            words.append(f"{name.removeprefix('objective/')} {_text(value, '+.3f' if measure and measure.difference else '.2f')}")
    return ", ".join(words)


def warning_lines(metrics: Mapping[str, Any]) -> list[str]:
    """The warnings of a stage, one line each."""
    return [f"  warning: {' '.join(text.split())}" for text in metrics.get(WARNINGS, [])]


def live(metrics: Mapping[str, float]) -> str:
    """The latest figures of a running stage, as one line of text."""
    return ", ".join(f"{name.rsplit('/')[-1].removesuffix('_avg')} {metrics[name]:.2f}" for name in LIVE if name in metrics)


def _text(value: Any, form: str = ".2f") -> str:
    if isinstance(value, dict):
        if found := estimate(value):
            return found.with_error(".3f" if "accuracy" in value.get("pairwise", value) else form)
        if any(name in value for name in ("pairwise", *MEANS)):
            return "-"
        if all(isinstance(part, dict) for part in value.values()):
            return "; ".join(f"{what} {_text(part, form)}" for what, part in value.items())
        return "; ".join(f"{count} x {what}" for what, count in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)
