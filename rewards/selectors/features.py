"""The `features` selector: logistic regression on features of each candidate. Nothing but a few weights is trained.

    P(a is preferred to b) = sigmoid(w · (x_a - x_b))        (Bradley-Terry with linear scores)

A candidate's score is w · x. `select.features` names the groups of features in x:

    reward     reward                    the reward model's score
    rules      rule_NAME                 1 if the rule finds its defect, one for each rule of `evaluate.rules`
    agreement  agreement_phrases         the mean share of phrases in common with each other candidate (the size of the intersection
                                         divided by that of the union)
               agreement_answer          the share of the other candidates that begin with the same phrase
    logprobs   sft_mean, sft_min         the mean and the lowest log-prob of the completion's tokens under the SFT adapter
               sft_first_phrase          the mean over the tokens of the first phrase under the SFT adapter
               base_mean, base_min       the mean and the lowest under the bare base
    length     length                    tokens
               log_characters            log(1 + characters)

Phrases are those of `rewards/rules/texts.py`. Log-probs are in nats, at the run's sampling temperature (`generation.temperature`), before
top-k and top-p. They and the length count the end token of a finished completion. A completion without tokens is taken as an end token.

Where the scores of the reward model come from is the business of `Tools.reward`: see there and `examples.py`. The weights must never be
fitted on held-out comparisons, or on scores of a reward model that has seen the comparison.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from policies.batching import batches_by_length
from policies.responses import ResponseBatch
from policies.tokenization import encode_completion
from rewards.comparisons import Answer, Comparison
from rewards.rules.texts import phrases
from rewards.selectors.examples import Example
from rewards.selectors.selector import Candidates, Encoded, Selector, SelectTask, Tools, by_group

DECIMALS = 6
AGREEMENT = "agreement"
"""The group of features that compare a candidate with the others. Their names begin with it."""
FILE = "weights.json"

Features = dict[str, float]


@dataclass(frozen=True)
class FeaturesSelector(Selector):
    """Scores candidates by a weighted sum of their features.

    names: the groups of features. weights: of each feature, for its own unit. effects: the same for one standard deviation of the
    differences that the weights were fitted on, which is what can be compared between features.
    """

    names: Sequence[str]
    temperature: float
    weights: Features
    effects: Features

    def score(self, groups: Sequence[Candidates]) -> list[list[float]]:
        """The weighted sums. A feature that a candidate does not have counts as 0."""
        found = measure(self.tools, groups, self.names, self.temperature)
        return [[sum(weight * x.get(name, 0.0) for name, weight in self.weights.items()) for x in rows] for rows in found]

    def reasons(self, group: Candidates) -> list[Features]:
        """How much each feature raises a candidate's score over the mean score of the group, where it makes a difference."""
        rows = measure(self.tools, [group], self.names, self.temperature)[0]
        means = {name: sum(x.get(name, 0.0) for x in rows) / len(rows) for name in self.weights}
        raised = [{name: weight * (x.get(name, 0.0) - means[name]) for name, weight in self.weights.items()} for x in rows]
        return [{name: value for name, value in row.items() if value} for row in raised]

    def save(self, folder: Path) -> None:
        """Write everything as JSON."""
        saved = {"features": list(self.names), "temperature": self.temperature, "weights": self.weights, "effects": self.effects}
        (folder / FILE).write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")


def fit(task: SelectTask) -> FeaturesSelector:
    """The selector for the task's examples."""
    weights, effects = fit_weights(task.examples)
    return FeaturesSelector(task.tools, task.config.features, task.temperature, weights, effects)


def fit_without_agreement(task: SelectTask) -> FeaturesSelector:
    """A selector whose scores do not depend on the other candidates, so that it can score a single answer."""
    names = [name for name in task.config.features if name != AGREEMENT]
    weights, effects = fit_weights([without_agreement(example) for example in task.examples])
    return FeaturesSelector(task.tools, names, task.temperature, weights, effects)


def load(folder: Path, tools: Tools) -> FeaturesSelector:
    """What `save` has written."""
    saved = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return FeaturesSelector(tools, saved["features"], saved["temperature"], saved["weights"], saved["effects"])


def fit_weights(examples: Sequence[Example]) -> tuple[Features, Features]:
    """The weight of each feature for its own unit, and for a standard deviation of its differences.

    The differences chosen - rejected are divided by their standard deviation around 0, because which side is which is arbitrary. For the
    same reason there is no intercept, and each difference is used with both signs. Held-out examples must not be among the examples.
    Without examples, all weights are 0.
    """
    from sklearn.linear_model import LogisticRegression  # late, because importing it takes a second

    assert not any(example.heldout for example in examples)
    names = sorted({name for example in examples for name in example.chosen})
    if not names:
        return {}, {}
    differences = np.array([[row.chosen.get(n, 0.0) - row.rejected.get(n, 0.0) for n in names] for row in examples])
    deviations = np.sqrt((differences**2).mean(0))
    scaled = differences / np.where(deviations > 0, deviations, 1.0)
    sides = np.repeat([1, 0], len(scaled))
    effects = LogisticRegression(C=1.0, fit_intercept=False).fit(np.concatenate([scaled, -scaled]), sides).coef_[0]
    weights = np.divide(effects, deviations, out=np.zeros_like(effects), where=deviations > 0)
    return dict(zip(names, weights.tolist(), strict=True)), dict(zip(names, effects.tolist(), strict=True))


def without_agreement(example: Example) -> Example:
    """The example without the features that depend on the other candidates."""

    def rest(features: Features) -> Features:
        return {name: value for name, value in features.items() if not name.startswith(AGREEMENT)}

    return replace(example, chosen=rest(example.chosen), rejected=rest(example.rejected))


def make_examples(
    tools: Tools, groups: Sequence[Candidates], comparisons: Sequence[Comparison], names: Sequence[str], temperature: float
) -> list[Example]:
    """The examples of a round: its comparisons without ties, as features.

    groups: all candidates of the prompts, which must contain the completions that were compared. The reward model of `tools` must have
    been fitted before these comparisons existed.
    """
    found = measure(tools, groups, names, temperature)
    rows = {
        (group.prompt_id, answer.completion, answer.finished): x
        for group, xs in zip(groups, found, strict=True)
        for answer, x in zip(group.answers, xs, strict=True)
    }
    return [
        Example(
            row.prompt_id,
            row.generation,
            row.heldout,
            rows[row.prompt_id, row.chosen, row.chosen_finished],
            rows[row.prompt_id, row.rejected, row.rejected_finished],
        )
        for row in comparisons
        if not row.tie
    ]


# -- measuring ------------------------------------------------------------------------------------------------------------


def measure(tools: Tools, groups: Sequence[Candidates], names: Sequence[str], temperature: float) -> list[list[Features]]:
    """The features of each candidate of each group. `names` are groups of features."""
    parts = [FEATURES[name](tools, groups, temperature) for name in names]
    return [
        [{key: round(value, DECIMALS) for part in parts for key, value in part[g][i].items()} for i in range(len(group.answers))]
        for g, group in enumerate(groups)
    ]


def rewards(tools: Tools, groups: Sequence[Candidates], temperature: float) -> list[list[Features]]:
    """The reward model's scores."""
    return [[{"reward": score} for score in scores] for scores in tools.rewards(groups)]


def rules(tools: Tools, groups: Sequence[Candidates], temperature: float) -> list[list[Features]]:
    """Which rules find their defect."""
    return [[{f"rule_{name}": float(value) for name, value in found.items()} for found in rows] for rows in tools.defects(groups)]


def agreement(tools: Tools, groups: Sequence[Candidates], temperature: float) -> list[list[Features]]:
    """How much candidates agree with the others of their group. Both features are 0 for a candidate without others."""
    return tools.once("agreement", groups, lambda new: [_agreement_in(group) for group in new])


def logprobs(tools: Tools, groups: Sequence[Candidates], temperature: float) -> list[list[Features]]:
    """Log-probs of the tokens under the SFT adapter and the bare base."""
    return tools.once(("logprobs", temperature), groups, lambda new: _logprobs(tools, new, temperature))


def lengths(tools: Tools, groups: Sequence[Candidates], temperature: float) -> list[list[Features]]:
    """Length in tokens, and the logarithm of that in characters."""
    return [
        [
            {"length": float(len(_tokens(tools, one))), "log_characters": math.log1p(len(answer.completion))}
            for one, answer in zip(rows, group.answers, strict=True)
        ]
        for rows, group in zip(tools.encoded(groups), groups, strict=True)
    ]


FEATURES: dict[str, Callable[[Tools, Sequence[Candidates], float], list[list[Features]]]] = {
    "reward": rewards,
    "rules": rules,
    "agreement": agreement,
    "logprobs": logprobs,
    "length": lengths,
}
"""The groups of features by name. The names are also in `FeatureGroup` (configs/judging.py)."""


def token_logprobs(tools: Tools, candidates: Sequence[Encoded], adapter: str | None, temperature: float) -> list[np.ndarray]:
    """The log-prob of each token of each candidate. Batches hold sequences of similar length."""
    responses = [_tokens(tools, one) for one in candidates]
    found: list[np.ndarray] = [np.zeros(0)] * len(candidates)
    lengths = [len(one.prompt) + len(response) for one, response in zip(candidates, responses, strict=True)]
    for rows in batches_by_length(lengths, tools.backbone.tokens_per_batch):
        batch = ResponseBatch.from_ids(tools.backbone, [candidates[i].prompt for i in rows], [responses[i] for i in rows], temperature)
        on_grid, mask = batch.under(adapter)[1].float().cpu().numpy(), batch.mask.cpu().numpy()
        for i, values, real in zip(rows, on_grid, mask, strict=True):
            found[i] = values[real]
    return found


def _logprobs(tools: Tools, groups: Sequence[Candidates], temperature: float) -> list[list[Features]]:
    encoded = tools.encoded(groups)
    sft = by_group(encoded, lambda candidates: token_logprobs(tools, candidates, "sft", temperature))
    base = by_group(encoded, lambda candidates: token_logprobs(tools, candidates, None, temperature))
    return [
        [
            {
                "sft_mean": float(s.mean()),
                "sft_min": float(s.min()),
                "sft_first_phrase": float(s[: _first_phrase_tokens(tools, answer)].mean()),
                "base_mean": float(b.mean()),
                "base_min": float(b.min()),
            }
            for answer, s, b in zip(group.answers, of_sft, of_base, strict=True)
        ]
        for group, of_sft, of_base in zip(groups, sft, base, strict=True)
    ]


def _tokens(tools: Tools, one: Encoded) -> list[int]:
    """The completion's tokens; the end token if there are none."""
    return one.completion or [tools.backbone.tokenizer.eos_token_id]


def _first_phrase_tokens(tools: Tools, answer: Answer) -> int:
    """How many tokens the text has up to the end of its first phrase. A text without phrases is taken as one phrase."""
    first = next(iter(phrases(answer.completion)), "")
    end = answer.completion.find(first) + len(first) if first else len(answer.completion)
    return max(1, len(encode_completion(tools.backbone.tokenizer, answer.completion[:end], finished=False)))


def _agreement_in(group: Candidates) -> list[Features]:
    said = [phrases(answer.completion) for answer in group.answers]
    found = []
    for i, mine in enumerate(said):
        others = [other for j, other in enumerate(said) if j != i]
        shared = [len({*mine} & {*other}) / max(1, len({*mine} | {*other})) for other in others]
        same = [bool(mine) and mine[:1] == other[:1] for other in others]
        number = max(1, len(others))
        found.append({"agreement_phrases": sum(shared) / number, "agreement_answer": sum(same) / number})
    return found
