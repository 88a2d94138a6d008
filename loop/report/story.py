"""The story of a run in three answers: did it get better, is it cheating, which round to ship. Each says what it rests on.

The rules are simple and stand in the text, so a reader can disagree. An interval is the 95 % interval of the mean.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from configs.errors import UserError
from loop.promotion.choosing import choose_round
from loop.report.reading import RunView, win_rate_over_sft
from loop.report.signs import Sign, Verdict, checks, interval, is_suspicious, signs, verdict
from loop.round import RETRAIN
from loop.store.estimates import Estimate, estimate
from loop.wording import round_name, sentence

Tone = Literal["good", "warn", "bad", "plain"]
"""How an answer is colored. plain: it is neither good nor bad news."""
CHANCE = 0.5
SHOWN_SIGNS = 4
"""How many signs the first screen names. Those that show a loss come first."""
BETTER, CHEATING, SHIP = "Did it get better?", "Is it cheating?", "Which round to ship?"


@dataclass(frozen=True)
class Answer:
    """An answer to one question. lines: what it rests on."""

    question: str
    headline: str
    tone: Tone
    lines: list[str]


def tell(run: RunView) -> list[Answer]:
    """The three answers."""
    if not run.evaluated:
        return [Answer(question, "Not known yet", "plain", ["No round has been evaluated."]) for question in (BETTER, CHEATING, SHIP)]
    return [better(run), cheating(run), ship(run)]


def better(run: RunView) -> Answer:
    """Did it get better? By the true reward, else by the win rate, else by the reward model's own score, which proves little."""
    last = run.evaluated[-1]
    metrics = run.policy(last)
    rate = win_rate_over_sft(metrics)
    if gain := estimate(metrics.get("gold_over_sft")):
        before, now = estimate(run.policy(None).get("gold")), estimate(metrics.get("gold"))
        values = f": {before.mean:.2f} after SFT, {now.mean:.2f} after round {last}" if before and now else ""
        lines = [f"True reward on {gain.size} held-out prompts{values}. The gain is {interval(gain)}, prompt by prompt."]
        lines += _was_higher(run)
        lines += [f"It is preferred to the SFT policy in {rate.with_interval('z.0%')} of {rate.size} comparisons."] if rate else []
        return Answer(BETTER, *_direction(gain, 0.0, f"{gain.mean:+.2f} in true reward"), lines)
    if rate:
        lines = [
            f"After round {last}, its answer is preferred to the SFT policy's in {rate.with_interval('z.0%')} of {rate.size} comparisons."
        ]
        return Answer(BETTER, *_direction(rate, CHANCE, f"preferred in {rate.mean:.0%}"), lines)
    if proxy := estimate(metrics.get("proxy_gain")):
        said = f"The reward model of round {last} scores it {interval(proxy)} standard deviations from the SFT policy."
        caution = "PPO raises this score by design, so it does not show that answers are better. Nothing in this run does."
        return Answer(BETTER, "No independent measure", "plain", [said, caution])
    return Answer(BETTER, "Not measured", "plain", ["The evaluation has no true reward, no win rate and no score."])


def _was_higher(run: RunView) -> Iterator[str]:
    """Says so where an earlier round had a higher true reward than the last one."""
    golds = {r: gold.mean for r in run.evaluated if (gold := estimate(run.policy(r).get("gold")))}
    best = max(golds, key=lambda r: golds[r], default=None)
    if best is not None and best != run.evaluated[-1]:
        yield f"It was higher before: {golds[best]:.2f} after round {best}."


def cheating(run: RunView) -> Answer:
    """Is it cheating? The signs of over-optimization in the last evaluated round."""
    last = run.evaluated[-1]
    looked, found, own = [check.measure for check in checks(run, last)], signs(run, last), verdict(run, last)
    if not looked and not own:
        return Answer(CHEATING, "Cannot be said", "plain", ["The evaluation has nothing that shows it. Read samples."])
    lines = [f"The run's own rule says {own.word}{': ' if own.fires else ''}{', '.join(own.fires)}."] if own else []
    lines += [sign.text for sign in found[:SHOWN_SIGNS]]
    if len(found) > SHOWN_SIGNS:
        lines.append(f"And {len(found) - SHOWN_SIGNS} more signs: see Signs of cheating below.")
    lines += [f"Looked at in round {last}: {', '.join(looked)}."] if looked else []
    lines += _unsure_reward_model(run, last)
    if earlier := [r for r in run.evaluated[:-1] if is_suspicious(run, r)]:
        lines.append(f"There were signs in {' and '.join(map(round_name, earlier))} too.")
    return Answer(CHEATING, *_suspicion(own, found), lines)


def _suspicion(own: Verdict | None, found: list[Sign]) -> tuple[str, Tone]:
    """The headline. The run's own rule comes first; where it says none, the signs that a report sees still count."""
    if own and own.word == "clear":
        return "Yes, clearly", "bad"
    if own and own.word == "suspected":
        return "Suspected", "warn"
    if any(sign.is_hard for sign in found):
        return "Yes, probably", "bad"
    if found:
        return f"{len(found)} sign{'s' if len(found) > 1 else ''} of it", "warn"
    return "No sign of it", "good"


def _unsure_reward_model(run: RunView, r: int) -> Iterator[str]:
    """Says so where the reward model knows nothing of this policy's answers. It is no sign: accuracy falls in a healthy run too."""
    fresh = estimate(run.metrics(RETRAIN.name, r).get("accuracy_fresh_before"))
    if fresh and fresh.interval and fresh.interval[0] <= CHANCE:
        said = "is no better than chance on this policy's answers, so its score can say little about them"
        yield f"The reward model that PPO used {said}: {fresh.with_interval('z.0%')}. This alone is no sign of cheating."


def ship(run: RunView) -> Answer:
    """Which round to ship: the one that `loop promote` would choose, with what it is to choose the highest of several figures."""
    try:
        choice = choose_round(run.folder, run.state)
    except UserError as error:
        return Answer(SHIP, "Cannot be said", "plain", [f"{sentence(error.what)}. Read samples before you choose."])
    lines = [*choice.lines]
    if choice.round is None:
        return Answer(SHIP, "The SFT policy", "bad", lines)
    if len(run.evaluated) > 1:
        noisy = f"It is the highest of {len(run.evaluated) + 1} noisy figures, so it is probably a little too high. New prompts would tell."
        lines.append(noisy)
    found = signs(run, choice.round)
    lines += [f"Before you ship it: {sign.text[0].lower()}{sign.text[1:]}" for sign in found[:2]]
    is_sure = _is_better(run, choice.round) and not is_suspicious(run, choice.round)
    return Answer(SHIP, sentence(round_name(choice.round)), "good" if is_sure else "warn", lines)


def _is_better(run: RunView, r: int) -> bool:
    """Whether a round is clearly better than the SFT policy."""
    gain, rate = estimate(run.policy(r).get("gold_over_sft")), win_rate_over_sft(run.policy(r))
    return gain.is_above(0) if gain else rate is not None and rate.is_above(CHANCE)


def _direction(value: Estimate, zero: float, better_text: str) -> tuple[str, Tone]:
    """The headline for a value above, below or not clearly different from `zero`."""
    if value.is_above(zero):
        return f"Yes: {better_text}", "good"
    if value.is_below(zero):
        return f"No, worse: {better_text}", "bad"
    return f"Not clearly: {better_text}", "warn"
