"""Does the loop learn? Runs the embedded default on several seeds and prints the table of the README.

    python -m tests.benchmarks.seeds [--seeds 0 1 2 3 4] [--runs DIR] [KEY=VALUE ...]

All runs share one executor, so Ray starts once. Runs that exist are continued, and finished ones are only printed. In a seed's row the
difference from SFT is paired by prompt, as the run reports it. In the second table differences are paired by seed; their standard error
is that of the mean over seeds, s / sqrt(n).
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs import load_config
from configs.errors import LoopError
from configs.schema import RunConfig
from loop.driver import Driver
from loop.executors import executor_for
from loop.signals import StopSignals
from loop.store.stage_library import StageLibrary
from loop.terminal import Terminal

SELECTORS = ("features", "reward-model", "rules", "longest")
WAYS = ("random", "reward_model", "chosen", "oracle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--runs", default="runs/seeds")
    options = parser.parse_args()
    runs = Path(options.runs).resolve()
    configs = [load_config(overrides=options.settings, name=f"seed-{seed}", num_rounds=2, seed=seed) for seed in options.seeds]
    make_runs(configs, runs)
    print_table(options.seeds, [measure(runs / config.name) for config in configs])


def make_runs(configs: Sequence[RunConfig], runs: Path, library: StageLibrary | None = None) -> None:
    """Make or continue the runs, all on one executor. library: where equal stages are copied from. A failure ends the program."""
    terminal = Terminal()
    try:
        with StopSignals(terminal.say) as signals, executor_for(configs[0], runs) as executor:
            for config in configs:
                terminal.say(config.name)
                Driver(config, runs / config.name, terminal, executor, signals, library=library).execute()
    except LoopError as error:
        raise SystemExit(str(error)) from None


def measure(run: Path) -> dict[str, Any]:
    """The figures of one run, from its committed stages."""

    def metrics(stage: str) -> dict:
        return json.loads((run / stage / "manifest.json").read_text(encoding="utf-8"))["metrics"]

    found = {"sft": metrics("setup/baseline")["gold"]["mean"]}
    for r in (0, 1):
        where = f"round-{r:03d}"
        retrain, select, evaluate = (metrics(f"{where}/{stage}") for stage in ("retrain", "select", "evaluate"))
        found |= {
            f"round {r}": evaluate["gold"]["mean"],
            f"over sft {r}": evaluate["gold_over_sft"],
            f"fresh before {r}": retrain["accuracy_fresh_before"]["accuracy"],
            f"fresh after {r}": retrain["accuracy_fresh"]["accuracy"],
        }
        found |= {f"{name} {r}": select["judged"][name]["pairwise"]["accuracy"] for name in SELECTORS}
        found |= {f"{way} of n {r}": evaluate["best_of"][way]["mean"] for way in WAYS}
        if r:
            found |= {f"{name} of round {r - 1}": select["judged_before"][name]["pairwise"]["accuracy"] for name in SELECTORS}
    return found


def print_table(seeds: list[int], rows: list[dict[str, Any]]) -> None:
    """Gold by seed, then the paired differences, then the selectors and the best of n."""
    print("\n| seed | SFT | round 0 | round 1 |\n| ---: | ---: | ---: | ---: |")
    for seed, row in zip(seeds, rows, strict=True):
        cells = [
            f"{row[f'round {r}']:.2f} ({row[f'over sft {r}']['mean']:+.2f} ± {row[f'over sft {r}']['standard_error']:.2f})" for r in (0, 1)
        ]
        print(f"| {seed} | {row['sft']:.2f} | {' | '.join(cells)} |")
    print(f"| mean | {mean(rows, 'sft'):.2f} | {mean(rows, 'round 0'):.2f} | {mean(rows, 'round 1'):.2f} |")
    print("\n| paired difference over seeds | mean | standard error | seeds where it is positive |\n| --- | ---: | ---: | ---: |")
    pairs = [("round 0", "sft"), ("round 1", "sft"), ("round 1", "round 0")]
    pairs += [(f"fresh after {r}", f"fresh before {r}") for r in (0, 1)]
    pairs += [(f"features {r}", f"reward-model {r}") for r in (0, 1)]
    pairs += [("features of round 0", "reward-model of round 0")]
    pairs += [(f"chosen of n {r}", f"{other} of n {r}") for r in (0, 1) for other in ("reward_model", "random")]
    for new, old in pairs:
        differences = [row[new] - row[old] for row in rows]
        average, error = sum(differences) / len(rows), standard_error(differences)
        print(f"| {new} - {old} | {average:+.3f} | {error:.3f} | {sum(d > 0 for d in differences)} of {len(rows)} |")
    print("\n| held-out comparisons, pairwise accuracy | round 0 | round 1 | of round 0 on round 1 |\n| --- | ---: | ---: | ---: |")
    for name in SELECTORS:
        print(f"| {name} | {with_error(rows, f'{name} 0')} | {with_error(rows, f'{name} 1')} | {with_error(rows, f'{name} of round 0')} |")
    print("\n| gold of the best of n | round 0 | round 1 |\n| --- | ---: | ---: |")
    for way in WAYS:
        print(f"| {way} | {with_error(rows, f'{way} of n 0')} | {with_error(rows, f'{way} of n 1')} |")


def with_error(rows: list[dict[str, Any]], name: str) -> str:
    return f"{mean(rows, name):.3f} ± {standard_error([row[name] for row in rows]):.3f}"


def mean(rows: list[dict[str, Any]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def standard_error(values: list[float]) -> float:
    average = sum(values) / len(values)
    return math.sqrt(sum((v - average) ** 2 for v in values) / max(1, len(values) - 1) / len(values))


if __name__ == "__main__":
    main()
