"""Do later rounds still learn, and do they cost the same? Runs the embedded default for several rounds and prints the tables of
docs/results.md.

    python -m tests.benchmarks.many_rounds [--seeds 0 1 2 3 4] [--rounds 6] [--runs DIR] [KEY=VALUE ...]

Runs that exist are continued, and finished ones are only printed. Differences are paired by seed; their standard error is that of the mean
over seeds, s / sqrt(n). A round's time is the sum of the times of its stages. It means something only if nothing else was running.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs import load_config
from loop.round import ROUND_STAGES
from loop.store.journal import Journal
from loop.store.layout import RunFolder
from tests.benchmarks.seeds import make_runs, mean, standard_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--runs", default="runs/rounds")
    options = parser.parse_args()
    runs, rounds = Path(options.runs).resolve(), range(options.rounds)
    configs = [load_config(overrides=options.settings, name=f"seed-{seed}", num_rounds=len(rounds), seed=seed) for seed in options.seeds]
    make_runs(configs, runs)
    found = [measure(runs / config.name, rounds) for config in configs]
    print_gold(options.seeds, found, rounds)
    print_differences(found, rounds)
    print_generations(found, rounds)
    print_seconds(options.seeds, found, rounds)


def measure(run: Path, rounds: range) -> dict[str, Any]:
    """The figures of one run: gold, the KL divergence, the time of each round, and each reward model's accuracy on each generation."""
    state = Journal(RunFolder(run).journal).state()

    def metrics(stage: str) -> dict:
        return json.loads((run / stage / "manifest.json").read_text(encoding="utf-8"))["metrics"]

    found = {"sft": metrics("setup/baseline")["gold"]["mean"]}
    for r in rounds:
        evaluate = metrics(f"round-{r:03d}/evaluate")
        found |= {f"round {r}": evaluate["gold"]["mean"], f"kl {r}": evaluate["kl"]["mean"]}
        found |= {f"best {r}": evaluate["best_of"]["chosen"]["mean"]} if "best_of" in evaluate else {}
        found[f"seconds {r}"] = sum(state.stage(stage.name, r).seconds or 0.0 for stage in ROUND_STAGES)
        for part, right in evaluate["retrained_accuracy"].items():
            found[f"{part} by {r}"] = right["accuracy"]
    return found


def print_gold(seeds: Sequence[int], rows: list[dict[str, Any]], rounds: range) -> None:
    """Gold of the policy by round, with the means of gold, of the KL divergence and of the best of n."""
    print("\n| seed | SFT | " + " | ".join(f"round {r}" for r in rounds) + " |\n" + "| ---: " * (len(rounds) + 2) + "|")
    for seed, row in zip(seeds, rows, strict=True):
        print(f"| {seed} | {row['sft']:.2f} | " + " | ".join(f"{row[f'round {r}']:.2f}" for r in rounds) + " |")
    print(f"| mean | {mean(rows, 'sft'):.2f} | " + " | ".join(f"{mean(rows, f'round {r}'):.2f}" for r in rounds) + " |")
    print("| KL from SFT, nats | 0 | " + " | ".join(f"{mean(rows, f'kl {r}'):.2f}" for r in rounds) + " |")
    if all(f"best {r}" in row for row in rows for r in rounds):
        print("| best of n by the selector | | " + " | ".join(f"{mean(rows, f'best {r}'):.2f}" for r in rounds) + " |")


def print_differences(rows: list[dict[str, Any]], rounds: range) -> None:
    """Each round against the one before it, and each later one against round 1."""
    print("\n| paired difference of gold | mean | standard error | seeds where it is positive |\n| --- | ---: | ---: | ---: |")
    pairs = [(r, r - 1) for r in rounds if r] + [(r, 1) for r in rounds if r > 2]
    for new, old in pairs:
        print(f"| round {new} - round {old} | {difference(rows, f'round {new}', f'round {old}')} |")


def print_generations(rows: list[dict[str, Any]], rounds: range) -> None:
    """What the last reward model knows of each generation, against the first reward model that was trained on that generation's labels."""
    last = rounds[-1]
    print(f"\n| held-out pairs of | when they were new | by the reward model after round {last} | difference | standard error | positive |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for part, first in [("original", 0), *((f"round-{r:03d}", r) for r in rounds if r != last)]:
        names = f"{part} by {last}", f"{part} by {first}"
        print(f"| {part} | {mean(rows, names[1]):.3f} | {mean(rows, names[0]):.3f} | {difference(rows, *names)} |")


def print_seconds(seeds: Sequence[int], rows: list[dict[str, Any]], rounds: range) -> None:
    """The time of each round."""
    print("\n| seconds, seed | " + " | ".join(f"round {r}" for r in rounds) + " |\n" + "| ---: " * (len(rounds) + 1) + "|")
    for seed, row in zip(seeds, rows, strict=True):
        print(f"| {seed} | " + " | ".join(f"{row[f'seconds {r}']:.0f}" for r in rounds) + " |")


def difference(rows: list[dict[str, Any]], new: str, old: str) -> str:
    """Mean, standard error and sign of a paired difference, as cells of a table."""
    values = [row[new] - row[old] for row in rows]
    return f"{sum(values) / len(values):+.3f} | {standard_error(values):.3f} | {sum(value > 0 for value in values)} of {len(values)}"


if __name__ == "__main__":
    main()
