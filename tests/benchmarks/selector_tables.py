"""The tables of `selectors.py`, from what it has measured of each seed. Pure functions of plain data; imports no ML library.

Over seeds, a value is the mean of one number for each seed, and ± is the standard error of that mean. Inside a seed, ± is the standard
error of a mean over prompts (or over comparisons, where those of a prompt count as one unit). Differences are always paired.
"""

from collections.abc import Mapping
from typing import Any

from loop.experiments.intervals import paired
from rewards.best_of import ratio
from rewards.measurements import Measurement, Summary, summarize

NUMBERS = (4, 8, 16)
"""From how many completions of a prompt one is picked. They are nested: the four are among the eight, and these among the sixteen."""
REWARD_MODEL, RANDOM, ORACLE, WITHOUT_RULES = "reward-model", "random", "oracle", "features without rules"
MISSING = "-"

Measured = Mapping[str, Any]
"""What was measured of one seed."""
BySeed = Mapping[int, Measured]


def print_tables(seeds: BySeed, policy: str) -> None:
    """Print everything as Markdown. policy: what the policy has maximized, in words."""
    numbers = ", ".join(map(str, seeds))
    print(f"\nSeeds {numbers}. Selectors of round 0, policy of round 1 ({policy}), held-out prompts. `features` includes the rules.")
    tables = {f"One of n = {n} completions": best_of(seeds, n) for n in NUMBERS}
    tables |= {f"Gold over that of the reward model inside each seed, n = {n}": best_of_by_seed(seeds, n) for n in NUMBERS}
    tables |= {"Held-out comparisons of round 1": accuracies(seeds)}
    tables |= {"Pairwise accuracy over that of the reward model inside each seed": accuracies_by_seed(seeds)}
    for title, lines in tables.items():
        print("\n".join(["", f"### {title}", "", *lines]))


# -- the tables ----------------------------------------------------------------------------------------------------------


def best_of(seeds: BySeed, n: int) -> list[str]:
    """Mean gold of each selector's picks, its normalized gain, and the difference from the reward model's picks, over seeds."""
    found = {seed: gold_of(measured, n) for seed, measured in seeds.items()}
    unseen = {seed: gold_of(measured, n, unseen_only=True) for seed, measured in seeds.items()}
    lines = header("who picks", "gold", "of unseen facts", "normalized gain", *DIFFERENCE)
    for name in order(found):
        gold = {seed: of_seed[name].mean()["mean"] for seed, of_seed in found.items()}
        others = {seed: of_seed[name].mean()["mean"] for seed, of_seed in unseen.items()}
        gain = {seed: normalized_gain(of_seed, name)["mean"] for seed, of_seed in found.items()}
        baseline = {seed: of_seed[REWARD_MODEL].mean()["mean"] for seed, of_seed in found.items()}
        lines.append(line(name, over_seeds(gold), over_seeds(others), over_seeds(gain), *difference(name, gold, baseline)))
    return lines


def best_of_by_seed(seeds: BySeed, n: int) -> list[str]:
    """The difference of each selector's gold from the reward model's in each seed, paired by prompt."""
    found = {seed: gold_of(measured, n) for seed, measured in seeds.items()}
    lines = header("who picks", *(f"seed {seed}" for seed in seeds))
    for name in order(found):
        if name != REWARD_MODEL:
            lines.append(line(name, *(text((of_seed[name] - of_seed[REWARD_MODEL]).mean(), "+") for of_seed in found.values())))
    return lines


def accuracies(seeds: BySeed) -> list[str]:
    """How often each selector prefers the chosen completion of a comparison, over seeds.

    The oracle's accuracy is the ceiling: the labels are noisy, so even the true reward is not always right.
    """
    found = {seed: measured["judged"] for seed, measured in seeds.items()}
    lines = header("who is asked", "pairwise accuracy", *DIFFERENCE)
    for name in order(found):
        right, baseline = ({seed: judged[of]["pairwise"]["accuracy"] for seed, judged in found.items()} for of in (name, REWARD_MODEL))
        lines.append(line(name, over_seeds(right), *difference(name, right, baseline)))
    return lines


def accuracies_by_seed(seeds: BySeed) -> list[str]:
    """The difference of each selector's pairwise accuracy from the reward model's in each seed. Comparisons of a prompt are one unit."""
    found = {seed: measured["judged"] for seed, measured in seeds.items()}
    lines = header("who is asked", *(f"seed {seed}" for seed in seeds))
    for name in order(found):
        if name != REWARD_MODEL:
            lines.append(line(name, *(text(judged[name]["over_reward_model"]["pairwise"], "+") for judged in found.values())))
    return lines


# -- numbers -------------------------------------------------------------------------------------------------------------


def gold_of(measured: Measured, n: int, unseen_only: bool = False) -> dict[str, Measurement]:
    """The gold of each selector's picks among n, by prompt. unseen_only: only prompts about facts that training never asks about."""
    found = {name: Measurement(values, measured["prompts"]) for name, values in measured["gold"][str(n)].items()}
    return {name: values.where(measured["unseen_facts"]) for name, values in found.items()} if unseen_only else found


def normalized_gain(gold: Mapping[str, Measurement], name: str) -> Summary:
    """(selector - random) / (oracle - random), of the means over prompts. None where the oracle gains nothing."""
    return ratio(gold[name] - gold[RANDOM], gold[ORACLE] - gold[RANDOM])


def order(found: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """The rows of a table: random first, the oracle last, and the others by name."""
    names = {name for of_seed in found.values() for name in of_seed}
    return [RANDOM, *sorted(names - {RANDOM, ORACLE}), ORACLE]


# -- text ----------------------------------------------------------------------------------------------------------------

DIFFERENCE = "over the reward model", "95 % interval", "positive"
"""The columns that `difference` fills."""


def difference(name: str, values: Mapping[int, float | None], baseline: Mapping[int, float | None]) -> tuple[str, str, str]:
    """The difference over seeds, its interval by Student's t, and on how many seeds it is positive. Empty for the reward model itself."""
    found = paired(known(values), known(baseline))
    if name == REWARD_MODEL or found is None:
        return "", "", ""
    interval = MISSING if found.low is None else f"{found.low:+.3f} to {found.high:+.3f}"
    return text({"mean": found.mean, "standard_error": found.standard_error}, "+"), interval, f"{found.positive} of {found.count}"


def over_seeds(values: Mapping[int, float | None]) -> str:
    """The mean over the seeds that have a value."""
    return text(summarize(list(known(values).values())))


def known(values: Mapping[int, float | None]) -> dict[int, float]:
    """The values without those that are None."""
    return {seed: value for seed, value in values.items() if value is not None}


def text(summary: Summary, sign: str = "") -> str:
    """A mean with its standard error, as far as there are any."""
    if summary["mean"] is None:
        return MISSING
    error = summary["standard_error"]
    return f"{summary['mean']:{sign}.3f}" + ("" if error is None else f" ± {error:.3f}")


def header(*cells: str) -> list[str]:
    """The first two lines of a table."""
    return [line(*cells), line("---", *["---:"] * (len(cells) - 1))]


def line(*cells: str) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"
