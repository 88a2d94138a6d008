"""Which round to ship: the one with the highest true reward on held-out prompts, else the one that most often wins against the SFT policy.

The SFT policy takes part, because no round may be better than where it started. What a reward model says of its own policy does not count:
PPO raises that score by design, and each round has another reward model. So without a true reward and without win rates nothing tells
the rounds apart, and the user has to name one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from configs.errors import UserError
from loop.round import BASELINE, EVALUATE, POLICY, SFT, Stage
from loop.store.estimates import Estimate, estimate
from loop.store.journal import RunState
from loop.store.layout import RunFolder
from loop.wording import round_name, sentence
from rewards.measurements import Measurement

Scores = Mapping[int | None, Estimate]
"""A figure of each round, and under None that of the SFT policy."""
GOLD, WINS = "true reward", "win rate against the SFT policy"
CHANCE = Estimate(0.5)
"""The win rate of a policy against itself."""


@dataclass(frozen=True)
class Choice:
    """The round to ship; None is the SFT policy. lines: what the choice rests on."""

    round: int | None
    lines: list[str]


def check_round(folder: RunFolder, state: RunState, wanted: int | None) -> Choice:
    """A round that the user has named, or the SFT policy. Raises UserError if its policy is not there."""
    stage = policy_stage(wanted)
    if state.stage(stage.name, wanted).state != "done":
        there = [round_name(r) for r in (None, *sorted(state.rounds)) if state.stage(policy_stage(r).name, r).state == "done"]
        to_do = f"choose one of these: {', '.join(there)}" if there else f"continue the run: `loop resume {folder.name}`"
        raise UserError(f"{round_name(wanted)} has no policy yet", str(folder.path), to_do)
    return Choice(wanted, [f"{sentence(round_name(wanted))} was named on the command line.", *_doubts(state, wanted)])


def choose_round(folder: RunFolder, state: RunState) -> Choice:
    """The round with the best figures. Raises UserError where nothing tells the rounds apart, and for damaged measurements."""
    evaluated = [r for r in sorted(state.rounds) if state.stage(EVALUATE.name, r).state == "done"]
    if not evaluated:
        to_do = f"name a round: `loop promote {folder.name} 0`, or finish one: `loop resume {folder.name}`"
        raise UserError("no round has been evaluated yet, so none can be chosen", str(folder.path), to_do)
    what, scores = GOLD, _gold(state, evaluated)
    if not scores:
        what, scores = WINS, _wins(state, evaluated)
    if not scores:
        raise UserError(
            "neither a true reward nor a win rate was measured, so nothing tells the rounds apart",
            str(folder.path),
            f"read samples of the rounds, then name one: `loop promote {folder.name} {evaluated[-1]}`",
        )
    best, *others = sorted(scores, key=lambda r: scores[r].mean, reverse=True)
    if best is None and what == WINS:
        second = f"{sentence(round_name(others[0]))} has the highest win rate against it: {scores[others[0]].with_interval()}."
        return Choice(None, ["No round wins more often than it loses against the SFT policy.", second])
    on = f" on {scores[best].size} held-out prompts" if scores[best].size else ""
    lines = [f"{sentence(round_name(best))} has the highest {what}{on}: {scores[best].with_interval()}."]
    if best is None:
        lines.append("No round is better than the policy that it started from.")
    difference = _paired_gold(folder, best, others[0]) if what == GOLD else None
    lines.append(f"Next comes {round_name(others[0])} with {scores[others[0]].with_interval()}.")
    if difference:
        clear = "clear" if difference.is_above(0.0) else "not clear: it may be chance"
        lines.append(f"The difference, prompt by prompt, is {difference.with_interval()}, which is {clear}.")
    return Choice(best, [*lines, *_doubts(state, best)])


def policy_stage(round_number: int | None) -> Stage:
    """The stage that has made a policy."""
    return SFT if round_number is None else POLICY


def evaluation_stage(round_number: int | None) -> Stage:
    """The stage that has measured a policy."""
    return BASELINE if round_number is None else EVALUATE


def _gold(state: RunState, rounds: list[int]) -> Scores:
    """The true reward of all policies; nothing if it was not measured for all of them."""
    found = {r: estimate(state.stage(evaluation_stage(r).name, r).metrics.get("gold")) for r in (None, *rounds)}
    scores = {r: value for r, value in found.items() if value is not None}
    return scores if len(scores) == len(found) else {}


def _wins(state: RunState, rounds: list[int]) -> Scores:
    """The win rates of all rounds against the SFT policy; nothing if they were not measured for all of them."""
    found = {r: estimate(state.stage(EVALUATE.name, r).metrics.get("win_rate", {}).get("sft")) for r in rounds}
    scores = {r: value for r, value in found.items() if value is not None}
    return {None: CHANCE} | scores if len(scores) == len(rounds) else {}  # first, so a round that wins exactly as often does not count


def _paired_gold(folder: RunFolder, first: int | None, second: int | None) -> Estimate | None:
    """The true reward of one policy minus that of another, prompt by prompt. Raises UserError for damaged measurements."""
    one, other = (_gold_by_prompt(folder, r) for r in (first, second))
    prompts = [prompt for prompt in one if prompt in other]
    return estimate(Measurement([one[prompt] - other[prompt] for prompt in prompts], prompts).mean())


def _gold_by_prompt(folder: RunFolder, round_number: int | None) -> dict[str, float]:
    path = folder.stage(evaluation_stage(round_number).name, round_number) / "measurements.jsonl"
    if not path.exists():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {row["prompt_id"]: row["gold"] for row in rows if "gold" in row}
    except (ValueError, KeyError, TypeError):
        raise UserError("the measurements have a damaged line", str(path), f"see what is damaged: `loop verify {folder.name}`") from None


def _doubts(state: RunState, round_number: int | None) -> list[str]:
    """A line if the evaluation of the round says that its policy may exploit its reward model."""
    found = state.stage(EVALUATE.name, round_number).metrics.get("overoptimization", {}) if round_number is not None else {}
    if found.get("verdict", "none") == "none":
        return []
    signs = ", ".join(name for name, sign in found.get("signs", {}).items() if sign.get("fires"))
    return [f"Before you ship it: its evaluation says that over-optimization is {found['verdict']} (signs: {signs})."]
