"""When does it pay to answer Thai prompts in English? Prints the tables of docs/across-languages.md.

    python -m tests.benchmarks.pivot [--seeds 0 1 2 3 4] [--runs runs/pivot] [--round]

All is measured on the embedded world, for a base that has read mostly English, and for one that has read both languages alike. Each arm is
the SFT policy of one seed: `direct`, or by way of English with a translator of a given error rate, which has translated its training pairs,
its prompts and its answers. The arms of a seed answer the same held-out prompts, and what is compared is the mean gold of those in Thai.
Intervals are of the mean over seeds, of differences that are paired by seed, by Student's t distribution (95 %). No PPO is done, but for
`--round`: then one whole round of the first seed is made and printed as well. Runs that exist are not made again.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from configs import load_config
from loop.driver import Driver
from loop.executors.in_process import InProcess
from loop.experiments.intervals import paired
from loop.round import Program, Run, run_rounds, set_up
from loop.store.layout import RunFolder
from loop.store.stage_library import StageLibrary
from loop.terminal import Terminal
from rewards.comparisons import Sample, read_jsonl
from rewards.gold import find_gold
from rewards.world import writer

ERRORS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
DOMAINS = ("hotels", "food", "colors", "animals", "lists", "functions", "harm")
"""The relations of the world (rewards/world/facts.py), in order."""
ALL = "all Thai prompts"
COMMON = ["runtime.executor=in-process", "runtime.threads=1", "evaluate.num_prompts=1000"]
BASES = {"mostly English": ["base.pretraining_texts=[mostly-english]"], "both alike": []}
SHOWN_ERRORS = {"mostly English": ERRORS, "both alike": (0.0, 0.05, 0.1, 0.2)}
Means = Mapping[str, float]
"""A part of the prompts -> the mean gold of a policy on it."""


def main() -> None:
    """Make the runs and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--runs", default="runs/pivot")
    parser.add_argument("--round", action="store_true", help="make one whole round of the first seed as well")
    options = parser.parse_args()
    runs = Path(options.runs).resolve()
    lab = Lab(runs, InProcess(load_config(overrides=COMMON).runtime), StageLibrary())
    found = {}
    for base, errors in SHOWN_ERRORS.items():
        arms = {"direct": []} | {f"{error:g}": pivot(error) for error in errors}
        if base == "mostly English":
            arms |= {"0, prompts kept": [*pivot(0.0), "pivot.prompt=keep"]}
        found[base] = {arm: {seed: measure(lab.make(base, arm, seed, words)) for seed in options.seeds} for arm, words in arms.items()}
    for base, arms_of_base in found.items():
        print_curve(base, arms_of_base)
    print_domains(found["mostly English"])
    (runs / "figures.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if options.round:
        print_round(lab, options.seeds[0])


def pivot(error: float) -> list[str]:
    """The settings of answers by way of English."""
    return ["respond=pivot", f"pivot.error_rate={error}"]


@dataclass(frozen=True)
class Lab:
    """Where runs are made, and what they share."""

    runs: Path
    executor: InProcess
    library: StageLibrary

    def make(self, base: str, arm: str, seed: int, words: Sequence[str], rounds: int = 0) -> RunFolder:
        """Make the stages before round 0, or some rounds as well, if they are not there."""
        name = re.sub(r"[^a-z0-9.]+", "-", f"{base} {arm} {seed} {rounds}".lower())
        config = load_config(overrides=[*COMMON, *BASES[base], *words], name=name, seed=seed, num_rounds=max(1, rounds))
        folder = self.runs / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        program: Program = run_rounds if rounds else before_round_0
        Driver(config, folder, Terminal(), self.executor, library=self.library).execute(program)
        return RunFolder(folder)


def before_round_0(run: Run) -> None:
    """The stages before round 0: the last one measures the SFT policy."""
    set_up(run)


def measure(run: RunFolder, stage: str = "baseline", round_number: int | None = None) -> dict[str, float]:
    """The mean gold of each part of the held-out prompts."""
    samples = read_jsonl(run.stage(stage, round_number) / "samples.jsonl", Sample)
    gold = find_gold("embedded", None)
    assert gold is not None
    true, prompts = gold(samples), writer.all_prompts()
    parts: dict[str, list[float]] = {}
    for sample in samples:
        prompt = prompts[sample.prompt_id]
        if prompt.language == "en":
            parts.setdefault("English prompts", []).append(true[sample.id])
            continue
        kind = "follow-ups" if len(prompt.messages) > 1 else "first questions"
        facts = "unseen facts" if sample.unseen_fact else "seen facts"
        for part in (ALL, DOMAINS[prompt.relation], kind, facts):
            parts.setdefault(part, []).append(true[sample.id])
    return {part: fmean(values) for part, values in parts.items()} | {"prompts": float(len(parts[ALL]))}


def print_curve(base: str, arms: Mapping[str, Mapping[int, Means]]) -> None:
    """Gold by the translator's error rate, beside direct answers."""
    print(f"\nA base that has read {base}:\n")
    print("| answers | gold on Thai prompts | minus direct | seeds where it is higher | gold on English prompts |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for arm, by_seed in arms.items():
        name = arm if arm == "direct" else f"by way of English, error rate {arm}"
        english = fmean(means["English prompts"] for means in by_seed.values())
        print(f"| {name} | {fmean(means[ALL] for means in by_seed.values()):.2f} | {difference(arms, arm, ALL)} | {english:.2f} |")


def difference(arms: Mapping[str, Mapping[int, Means]], arm: str, part: str) -> str:
    """What an arm gains over direct answers on a part of the prompts, with its interval, and in how many seeds; two cells of a table."""
    if arm == "direct":
        return " | "
    found = paired(_of(arms[arm], part), _of(arms["direct"], part))
    if found is None:
        return " | "
    interval = f" ({found.low:+.2f} to {found.high:+.2f})" if found.low is not None else ""
    return f"{found.mean:+.2f}{interval} | {found.positive} of {found.count}"


def print_domains(arms: Mapping[str, Mapping[int, Means]]) -> None:
    """What pivoting brings in each domain, and up to which error rate."""
    errors = [f"{error:g}" for error in ERRORS]
    print(f"\n| prompts | direct | {' | '.join(f'error {error}' for error in errors)} | pays up to an error rate of |")
    print(f"| --- | ---: |{' ---: |' * len(errors)} ---: |")
    for part in (ALL, *DOMAINS, "first questions", "follow-ups", "seen facts", "unseen facts"):
        cells = []
        for error in errors:
            found = paired(_of(arms[error], part), _of(arms["direct"], part))
            assert found is not None
            half = f" ± {found.high - found.mean:.2f}" if found.high is not None else ""
            cells.append(f"{found.mean:+.2f}{half}")
        direct = fmean(_of(arms["direct"], part).values())
        print(f"| {part} | {direct:.2f} | {' | '.join(cells)} | {break_even(arms, part)} |")


def break_even(arms: Mapping[str, Mapping[int, Means]], part: str) -> str:
    """The error rate at which the mean gain is 0, on straight lines between the measured ones."""
    gains = []
    for error in ERRORS:
        found = paired(_of(arms[f"{error:g}"], part), _of(arms["direct"], part))
        assert found is not None
        gains.append(found.mean)
    if gains[0] <= 0:
        return "never"
    for i in range(1, len(gains)):
        if gains[i] <= 0:
            share = gains[i - 1] / (gains[i - 1] - gains[i])
            return f"{ERRORS[i - 1] + share * (ERRORS[i] - ERRORS[i - 1]):.2f}"
    return f"over {ERRORS[-1]:g}"


def print_round(lab: Lab, seed: int) -> None:
    """One whole round: gold before and after PPO."""
    print(f"\n| one round, seed {seed} | gold on Thai prompts: SFT | after PPO | on English prompts: SFT | after PPO |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, words in {"direct": [], "by way of English, error rate 0.05": pivot(0.05)}.items():
        run = lab.make("mostly English", name, seed, words, rounds=1)
        before, after = measure(run), measure(run, "evaluate", 0)
        cells = [f"{means[part]:.2f}" for part in (ALL, "English prompts") for means in (before, after)]
        print(f"| {name} | {' | '.join(cells)} |")


def _of(by_seed: Mapping[int, Means], part: str) -> dict[int, float]:
    return {seed: means[part] for seed, means in by_seed.items() if part in means}


if __name__ == "__main__":
    main()
