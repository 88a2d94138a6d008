"""How often does the labeling model prefer a round's policy to the SFT policy? Prints a table of docs/real-run.md.

    python -m tests.benchmarks.labeler_wins RUN [--runs runs]

For a run with `labeler.kind=reward-model`. Both policies have answered the same held-out prompts, in the stages `baseline` and `evaluate`.
The labeling model was trained on pairs that the policies and their reward models have never seen. Its scores are log-odds, so it prefers
an answer with the probability sigmoid(difference), and that probability is averaged over the prompts. An answer beside itself has 0.5.
"""

import argparse
import warnings
from pathlib import Path

from loop.store.journal import fold, read_events
from loop.store.layout import RunFolder
from loop.store.run_config import read_config
from policies.training import quiet
from rewards.comparisons import Sample, read_jsonl, win_probability
from rewards.measurements import Measurement
from rewards.scoring import Scorer
from tests.benchmarks.selectors import context_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--runs", default="runs")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")  # those of third parties
    quiet()
    run = RunFolder(Path(options.runs).resolve() / options.run)
    state = fold(read_events(run.journal))
    context = context_of(read_config(run.path, state), run)
    scorer = Scorer.load(context.backbone_with_sft(), "labeler", run.stage("labeler", None))
    first = read_jsonl(run.stage("baseline", None) / "samples.jsonl", Sample)
    before = Measurement(scorer.score_samples(first), [sample.prompt_id for sample in first])
    print("| policy of | labeler's score | over the SFT policy | probability of being preferred to it | prompts with the same answer |")
    print(f"| --- | ---: | ---: | ---: | ---: |\n| SFT | {_text(before)} | | | |")
    for r in range(state.num_rounds):
        samples = read_jsonl(run.stage("evaluate", r) / "samples.jsonl", Sample)
        after = Measurement(scorer.score_samples(samples), [sample.prompt_id for sample in samples])
        gain = after - before
        wins = Measurement([win_probability(value) for value in gain.values], gain.units)
        same = sum(sample.completion == other.completion for sample, other in zip(samples, first, strict=True))
        print(f"| round {r} | {_text(after)} | {_text(gain, '+.2f')} | {_text(wins, '.3f')} | {same} of {len(samples)} |")


def _text(measured: Measurement, form: str = ".2f") -> str:
    found = measured.mean()
    return f"{found['mean']:{form}} ± {found['standard_error']:{form.lstrip('+')}}"


if __name__ == "__main__":
    main()
