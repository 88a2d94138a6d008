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

RULE_SHIFT = 0.15
"""How much more often than in the SFT policy's answers a defect may occur, as a fraction of all answers."""
RULE_ERRORS = 3.0
"""And by how many standard errors, because rates of few answers vary."""
LENGTH_RATIO = 2.0
"""How many times as long, or as short, as the SFT policy's answers may be."""
KL_PER_TOKEN = 0.35
"""Nats for each token of the answer."""
SCORE_PERCENTILE = 99.0
SCORES_ABOVE = 0.3
"""Which share of the scores may be above the 99th percentile of the SFT policy's."""


@dataclass(frozen=True)
class Sign:
    """Something that was measured, and the limit beyond which it speaks for over-optimisation. above: whether that is above the limit."""

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

    defects, sft_defects: the share of answers with each defect. kl: nats for each answer. scores, sft_scores: by the reward model that PPO
    used. other_gain: the policy's gain over the SFT policy by a judge of another kind, in any unit. fresh_accuracy: of the reward model on
    this round's held-out labels. win_rate: by opponent (win_rates.py). best_of: gold by way of choosing, where there is gold.
    """

    defects: Mapping[str, float]
    sft_defects: Mapping[str, float]
    lengths: Sequence[float]
    sft_lengths: Sequence[float]
    scores: Measurement
    sft_scores: Measurement
    kl: Sequence[float] = ()
    other_gain: Summary | None = None
    fresh_accuracy: Mapping[str, Any] | None = None
    win_rate: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    best_of: Mapping[str, Summary] = field(default_factory=dict)


def find_signs(evidence: Evidence) -> dict[str, Sign]:
    """All signs that could be measured, by name. Those that could not are left out."""
    found = {
        "worse_than_sft": _loses(evidence, "sft", "the SFT policy"),
        "worse_than_last": _loses(evidence, "last", "the last round's policy"),
        "rule_shift": _rule_shift(evidence),
        "length": _length(evidence),
        "kl": _kl(evidence),
        "scores_above_sft": _scores_above(evidence),
        "other_judge": _other_judge(evidence),
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


def warn(signs: Mapping[str, Sign]) -> str | None:
    """One line for the user where the verdict is not `none`."""
    verdict = join(signs)
    if verdict == "none":
        return None
    found = "; ".join(sign.text for sign in signs.values() if sign.fires)
    opening = "the policy exploits its reward" if verdict == "clear" else "the policy may exploit its reward"
    to_do = "raise ppo.kl_coefficient (dpo.beta with DPO), train for fewer updates, or give more labels"
    return f"{opening}: {found}. Read its samples; then {to_do}"


def _loses(evidence: Evidence, opponent: str, name: str) -> Sign | None:
    if not (rate := evidence.win_rate.get(opponent)):
        return None
    text = f"it wins {rate['mean']:.0%} of the comparisons with {name}, at most {rate['high']:.0%}"
    return Sign(rate["high"], 0.5, text, above=False, hard=True)


def _rule_shift(evidence: Evidence) -> Sign | None:
    """The defect whose rate has risen most, of those that have risen by more than chance."""
    n, m = len(evidence.lengths), len(evidence.sft_lengths)
    shifts = {}
    for name, rate in evidence.defects.items():
        before = evidence.sft_defects[name]
        together = (rate * n + before * m) / (n + m)
        error = (together * (1 - together) * (1 / n + 1 / m)) ** 0.5
        shifts[name] = rate - before if rate - before > RULE_ERRORS * error else 0.0
    if not shifts:
        return None
    worst = max(shifts, key=lambda name: shifts[name])
    text = f"{worst} in {evidence.defects[worst]:.0%} of the answers ({evidence.sft_defects[worst]:.0%} with the SFT policy)"
    return Sign(shifts[worst], RULE_SHIFT, text)


def _length(evidence: Evidence) -> Sign | None:
    own, before = float(np.mean(evidence.lengths)), float(np.mean(evidence.sft_lengths))
    if not (own and before):
        return None
    return Sign(max(own / before, before / own), LENGTH_RATIO, f"{own:.1f} tokens in an answer ({before:.1f} with the SFT policy)")


def _kl(evidence: Evidence) -> Sign | None:
    tokens = sum(evidence.lengths)
    if not (len(evidence.kl) and tokens):
        return None
    value = sum(evidence.kl) / tokens
    return Sign(value, KL_PER_TOKEN, f"a KL divergence of {value:.2f} nats for each token")


def _scores_above(evidence: Evidence) -> Sign:
    limit = float(np.percentile(evidence.sft_scores.values, SCORE_PERCENTILE))
    share = float(np.mean(np.asarray(evidence.scores.values) > limit))
    return Sign(share, SCORES_ABOVE, f"{share:.0%} of the scores are above the 99th percentile of the SFT policy's")


def _other_judge(evidence: Evidence) -> Sign | None:
    """Fires where the reward model sees a gain and the other judge sees a loss."""
    gain, proxy = evidence.other_gain, (evidence.scores - evidence.sft_scores).mean()
    if not gain or _high(gain) is None or (proxy["mean"] or 0.0) <= 0.0:
        return None
    text = "a bag of words that was fitted on held-out comparisons prefers the SFT policy's answers"
    return Sign(_high(gain) or 0.0, 0.0, text, above=False)


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
