"""Whether a policy seems to exploit its reward instead of getting better. A pure function over what a round has measured.

No single sign is enough: reward models that share a blind spot agree with each other, and a policy may get longer because longer is better.
So signs of different kinds are joined.

    hard    the labeler says so: the policy loses against the SFT policy, or against the last round's
    soft    something has gone far: the rate of a defect, length, KL, scores; or others do not share the reward model's view

    clear       a hard sign and a soft one, or three soft ones
    suspected   a hard sign, or two soft ones

`docs/win-rate.md` says where the limits come from. Must never read a file or a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rewards.measurements import NORMAL_QUANTILE, Measurement, Summary

Verdict = Literal["none", "suspected", "clear"]

SCORE_PERCENTILE = 99.0


@dataclass(frozen=True)
class Limits:
    """Beyond what a soft sign fires. `docs/win-rate.md` says where the numbers come from."""

    rule_shift: float = 0.2
    """By how much the rates of all defects that have become more frequent than in the SFT policy's answers may have risen together. Rates
    are fractions of all answers."""
    rule_errors: float = 3.0
    """And by how many standard errors, because rates of few answers vary."""
    length_ratio: float = 2.0
    """How many times as long, or as short, as the SFT policy's answers may be."""
    kl_per_token: float = 0.35
    """Nats for each token of the answer."""
    held_at: float = 0.8
    """The KL divergence, in nats for each token, at which the penalty has to hold the policy."""
    scores_above: float = 0.3
    """Which share of the scores may be above the 99th percentile of the SFT policy's."""
    gap: float = 0.3
    """By how many standard deviations of the SFT policy the gain in score may be larger than the gain by the other judge."""
    score_logprob: float = -0.9
    """How far the rank correlation of scores and log-probs under the SFT policy may fall."""


AFTER_A_ROUND = Limits()
WHILE_TRAINING = Limits(rule_errors=2.0, kl_per_token=0.21, gap=0.5)
"""Other limits, because the alarm has to come while there is something to save, looks have few answers, and the KL divergence is by
default that of this round only."""
LEAST_KL = 0.05
"""Nats for each answer. A smaller KL divergence is taken for this one, because it is mostly noise."""
SFT_POLICY = "the SFT policy"
NAMED_DEFECTS = 3
"""How many defects a warning names, those that have risen most."""
OTHER = "a bag of words that was fitted on held-out comparisons"


@dataclass(frozen=True)
class Sign:
    """Something that was measured, and the limit beyond which it speaks for over-optimization. above: whether that is above the limit."""

    value: float
    limit: float
    text: str
    above: bool = True
    hard: bool = False

    @property
    def fires(self) -> bool:
        """Whether the value is beyond the limit."""
        return self.value > self.limit if self.above else self.value < self.limit


@dataclass(frozen=True)
class Evidence:
    """What a round has measured of its policy and of the SFT policy, on the same prompts.

    defects, sft_defects: the share of answers with each defect. kl: nats for each answer. kl_coefficient: that of PPO's penalty, while PPO
    trains. scores, sft_scores: by the reward model that PPO used. other_gain: the policy's gain over the SFT policy by a judge of another
    kind, in any unit. gap: by how many standard deviations the gain in score is larger than that. choice: what that judge thinks of the
    answer that scores highest, over a random one. score_logprob: the rank correlation of scores and log-probs under the SFT policy.
    fresh_accuracy: of the reward model on this round's held-out labels. win_rate: by opponent (win_rates.py). best_of: gold by way of
    choosing, where there is gold. beside: the name of the policy that stands for the SFT policy here; while PPO trains in a later round, it
    is the one from which PPO started.
    """

    defects: Mapping[str, float]
    sft_defects: Mapping[str, float]
    lengths: Sequence[float]
    sft_lengths: Sequence[float]
    scores: Measurement
    sft_scores: Measurement
    kl: Sequence[float] = ()
    kl_coefficient: float | None = None
    other_gain: Summary | None = None
    gap: Summary | None = None
    choice: Summary | None = None
    score_logprob: float | None = None
    fresh_accuracy: Mapping[str, Any] | None = None
    win_rate: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    best_of: Mapping[str, Summary] = field(default_factory=dict)
    beside: str = SFT_POLICY


def find_signs(evidence: Evidence, limits: Limits = AFTER_A_ROUND) -> dict[str, Sign]:
    """All signs that could be measured, by name. Those that could not are left out."""
    found = {
        "worse_than_sft": _loses(evidence, "sft", SFT_POLICY),
        "worse_than_last": _loses(evidence, "last", "the last round's policy"),
        "rule_shift": _rule_shift(evidence, limits),
        "length": _length(evidence, limits),
        "kl": _kl(evidence, limits),
        "weak_penalty": _weak_penalty(evidence, limits),
        "scores_above_sft": _scores_above(evidence, limits),
        "other_judge": _other_judge(evidence),
        "gap": _gap(evidence, limits),
        "choice": _choice(evidence),
        "score_logprob": _score_logprob(evidence, limits),
        "fresh_accuracy": _fresh_accuracy(evidence),
        "best_of": _best_of(evidence),
    }
    return {name: sign for name, sign in found.items() if sign}


def join(signs: Mapping[str, Sign]) -> Verdict:
    """The verdict of all signs together."""
    fired = [sign for sign in signs.values() if sign.fires]
    hard = sum(sign.hard for sign in fired)
    soft = len(fired) - hard
    if (hard and soft) or soft >= 3:
        return "clear"
    return "suspected" if hard or soft >= 2 else "none"


def summary(signs: Mapping[str, Sign]) -> dict[str, Any]:
    """The verdict and each sign, as the metric `overoptimization`."""
    rows = {name: {"value": sign.value, "limit": sign.limit, "fires": sign.fires} for name, sign in signs.items()}
    return {"verdict": join(signs), "signs": rows}


def describe(signs: Mapping[str, Sign]) -> str | None:
    """One line that says what was found where the verdict is not `none`."""
    verdict = join(signs)
    if verdict == "none":
        return None
    opening = "the policy exploits its reward" if verdict == "clear" else "the policy may exploit its reward"
    return f"{opening}: {'; '.join(sign.text for sign in signs.values() if sign.fires)}"


def advise(found: str) -> str:
    """What was found, and what to do about it."""
    to_do = "raise ppo.kl_coefficient (dpo.beta with DPO), train for fewer updates, or give more labels"
    return f"{found}. Read its samples; then {to_do}"


def warn(signs: Mapping[str, Sign]) -> str | None:
    """One line for the user where the verdict is not `none`."""
    found = describe(signs)
    return advise(found) if found else None


def _loses(evidence: Evidence, opponent: str, name: str) -> Sign | None:
    if not (rate := evidence.win_rate.get(opponent)):
        return None
    text = f"it wins {rate['mean']:.0%} of the comparisons with {name}, at most {rate['high']:.0%}"
    return Sign(rate["high"], 0.5, text, above=False, hard=True)


def _rule_shift(evidence: Evidence, limits: Limits) -> Sign | None:
    """The rise of all defects that have become more frequent; 0 if it may be chance. One that has become rarer makes up for nothing."""
    n, m = len(evidence.lengths), len(evidence.sft_lengths)
    rises, variance = {}, 0.0
    for name, rate in evidence.defects.items():
        before = evidence.sft_defects[name]
        together = (rate * n + before * m) / (n + m)
        variance += together * (1 - together) * (1 / n + 1 / m)
        if rate > before:
            rises[name] = rate - before
    if not evidence.defects:
        return None
    total, most = sum(rises.values()), sorted(rises, key=lambda name: -rises[name])[:NAMED_DEFECTS]
    rates = [f"{name} in {evidence.defects[name]:.0%} of the answers instead of {evidence.sft_defects[name]:.0%}" for name in most]
    text = f"defects are more frequent than with {evidence.beside}: {', '.join(rates)}"
    return Sign(total if total > limits.rule_errors * variance**0.5 else 0.0, limits.rule_shift, text)


def _length(evidence: Evidence, limits: Limits) -> Sign | None:
    own, before = float(np.mean(evidence.lengths)), float(np.mean(evidence.sft_lengths))
    if not (own and before):
        return None
    text = f"{own:.1f} tokens in an answer ({before:.1f} with {evidence.beside})"
    return Sign(max(own / before, before / own), limits.length_ratio, text)


def _kl(evidence: Evidence, limits: Limits) -> Sign | None:
    tokens = sum(evidence.lengths)
    if not (len(evidence.kl) and tokens):
        return None
    value = sum(evidence.kl) / tokens
    return Sign(value, limits.kl_per_token, f"a KL divergence of {value:.2f} nats for each token")


def _weak_penalty(evidence: Evidence, limits: Limits) -> Sign | None:
    """Fires where the KL penalty will not stop the policy in time: where another nat will still be worth more score than it costs.

    The score rises about with the root of the KL divergence (arXiv 2204.05862, section 4.3), gain = a sqrt(KL). So a nat more is worth
    a / (2 sqrt(KL)) there, and costs the KL coefficient. PPO maximizes the difference and stops where the two are equal.
    """
    if evidence.kl_coefficient is None or not len(evidence.kl) or not any(evidence.lengths):
        return None
    gain = (evidence.scores - evidence.sft_scores).mean()["mean"] or 0.0
    rise = max(gain, 0.0) / max(float(np.mean(evidence.kl)), LEAST_KL) ** 0.5
    worth = rise / (2 * (limits.held_at * float(np.mean(evidence.lengths))) ** 0.5)
    text = f"the KL penalty is weak: at {limits.held_at:g} nats for each token, another nat would be worth {worth:.2f} of score"
    return Sign(worth, evidence.kl_coefficient, f"{text} and costs {evidence.kl_coefficient:.2f}")


def _scores_above(evidence: Evidence, limits: Limits) -> Sign:
    limit = float(np.percentile(evidence.sft_scores.values, SCORE_PERCENTILE))
    share = float(np.mean(np.asarray(evidence.scores.values) > limit))
    return Sign(share, limits.scores_above, f"{share:.0%} of the scores are above the 99th percentile of {evidence.beside}'s")


def _other_judge(evidence: Evidence) -> Sign | None:
    """Fires where the reward model sees a gain and the other judge sees a loss."""
    gain, proxy = evidence.other_gain, (evidence.scores - evidence.sft_scores).mean()
    if not gain or _high(gain) is None or (proxy["mean"] or 0.0) <= 0.0:
        return None
    text = f"{OTHER} prefers {evidence.beside}'s answers"
    return Sign(_high(gain) or 0.0, 0.0, text, above=False)


def _gap(evidence: Evidence, limits: Limits) -> Sign | None:
    """Fires where the gain in score is larger than the gain by the other judge by more than the limit, with its whole interval."""
    gap = evidence.gap
    if not gap or gap["mean"] is None or gap["standard_error"] is None:
        return None
    text = f"the gain in score is {gap['mean']:.1f} standard deviations above the gain by {OTHER}"
    return Sign(gap["mean"] - NORMAL_QUANTILE * gap["standard_error"], limits.gap, text)


def _choice(evidence: Evidence) -> Sign | None:
    """Fires where the other judge likes the answer that scores highest less than a random one."""
    high = _high(evidence.choice) if evidence.choice else None
    text = f"{OTHER} likes the answer that scores highest less than a random one"
    return None if high is None else Sign(high, 0.0, text, above=False)


def _score_logprob(evidence: Evidence, limits: Limits) -> Sign | None:
    if (value := evidence.score_logprob) is None:
        return None
    text = f"the score rises where the SFT policy finds an answer improbable (rank correlation {value:.2f})"
    return Sign(value, limits.score_logprob, text, above=False)


def _fresh_accuracy(evidence: Evidence) -> Sign | None:
    found = evidence.fresh_accuracy
    if not found or found["accuracy"] is None or found["standard_error"] is None:
        return None
    high = found["accuracy"] + NORMAL_QUANTILE * found["standard_error"]
    return Sign(high, 0.5, f"the reward model is right on {found['accuracy']:.0%} of this round's held-out labels", above=False)


def _best_of(evidence: Evidence) -> Sign | None:
    """Fires where the reward model's choice among several answers is worse than a random one. The errors are added as if independent."""
    ways = [evidence.best_of.get(name) for name in ("reward_model", "random")]
    if not all(way and way["mean"] is not None and way["standard_error"] is not None for way in ways):
        return None
    (chosen, its), (random, others) = ((way["mean"], way["standard_error"]) for way in ways if way)
    assert chosen is not None and random is not None and its is not None and others is not None
    high = chosen - random + NORMAL_QUANTILE * (its**2 + others**2) ** 0.5
    return Sign(high, 0.0, "the reward model's choice among several answers is worse than a random one", above=False)


def _high(found: Summary) -> float | None:
    mean, error = found["mean"], found["standard_error"]
    return None if mean is None or error is None else mean + NORMAL_QUANTILE * error
