"""Is a policy worth more than picking from the SFT policy? Prints a table of docs/results.md.

    python -m tests.benchmarks.best_of_sft [--seeds 0 1 2 3 4] [--runs runs/seeds]

For each run that `make seeds` has made: gold of the best of four completions of the SFT policy, picked by the reward model of each round,
beside gold of that round's policy with one completion. Both answer the same held-out prompts, so the differences are paired by prompt.
The first of the four completions is the one that the stage `baseline` has measured.
"""

import argparse
import json
import warnings
from pathlib import Path

from loop.store.journal import fold, read_events
from loop.store.layout import RunFolder
from loop.store.run_config import read_config
from policies.training import quiet
from rewards.best_of import complete
from rewards.comparisons import Sample, read_jsonl
from rewards.measurements import Measurement, summarize
from rewards.scoring import Scorer
from rewards.world.gold import gold_scores
from tests.benchmarks.selectors import context_of

COMPLETIONS = 4
ROUNDS = (0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--runs", default="runs/seeds")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")  # those of third parties
    quiet()
    found = {seed: measure(RunFolder(Path(options.runs).resolve() / f"seed-{seed}")) for seed in options.seeds}
    print(f"\n| seed | {' | '.join(f'best of {COMPLETIONS} of SFT by reward model {r} | policy {r} | difference' for r in ROUNDS)} |")
    print(f"| ---: |{' ---: |' * 3 * len(ROUNDS)}")
    for seed, rows in found.items():
        cells = [f"{best:.2f} | {policy:.2f} | {gain['mean']:+.2f} ± {gain['standard_error']:.2f}" for best, policy, gain in rows]
        print(f"| {seed} | {' | '.join(cells)} |")
    means = []
    for r in range(len(ROUNDS)):
        gain = summarize([rows[r][1] - rows[r][0] for rows in found.values()])
        best, policy = (sum(rows[r][i] for rows in found.values()) / len(found) for i in (0, 1))
        means.append(f"{best:.2f} | {policy:.2f} | {gain['mean']:+.2f} ± {gain['standard_error']:.2f}")
    print(f"| mean | {' | '.join(means)} |")


def measure(run: RunFolder) -> list[tuple[float, float, dict]]:
    """For each round: gold of the best of n of the SFT policy, gold of the policy, and the difference, paired by prompt."""
    config = read_config(run.path, fold(read_events(run.journal)))
    context = context_of(config, run)
    backbone = context.backbone_with_sft()
    first = read_jsonl(run.stage("baseline", None) / "samples.jsonl", Sample)
    by_prompt = complete(context.sampler, "sft", first, COMPLETIONS, context.run_seed("evaluate"))
    units = [sample.prompt_id for sample in first]
    found = []
    for r in ROUNDS:
        scorer = Scorer.load(backbone, "picks", run.stage("reward", r))
        scores = [scorer.score_samples(samples) for samples in by_prompt]
        backbone.delete_adapter("picks")
        picked = [samples[row.index(max(row))] for samples, row in zip(by_prompt, scores, strict=True)]
        true = gold_scores(picked)
        best = Measurement([true[sample.id] for sample in picked], units)
        rows = [json.loads(line) for line in (run.stage("evaluate", r) / "measurements.jsonl").open(encoding="utf-8")]
        policy = Measurement([row["gold"] for row in rows], [row["prompt_id"] for row in rows])
        found.append((best.mean()["mean"], policy.mean()["mean"], (policy - best).mean()))
    return found


if __name__ == "__main__":
    main()
