"""Does a reward model know more of real pairs than word counts do? Prints the table of docs/results.md.

    python -m tests.benchmarks.real_pairs [--seeds 0 1 2 3 4] [--folder DIR] [--simple]

The pairs are those of HH-harmless in the folder that LOOP_SHARED_DATA names. Each seed splits them by opening: two thirds train, and one
third only judges. Each seed trains a tiny base of its own on the training dialogues with both answers, so the base is not told which one
is chosen. From there, SFT and reward model are trained as in a run. What was measured of a seed is kept in the folder and not made again.
Rows are left out by length as in a run. With --simple, only the two baselines are judged, on all rows, in seconds.

`reward + features` is a logistic regression on five differences between chosen and rejected: the reward model's score, the bag of words'
score, the mean and the lowest log-prob of a token under the base, and the log of the length in tokens. While it is fitted, both scores
of a pair come from models (SFT included) that were trained on the other half of the training pairs, by opening. When it is judged, they
come from the models that were trained on all training pairs.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from configs import load_config
from configs.schema import RunConfig
from configs.seeds import derive_seed
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from policies.responses import ResponseBatch
from policies.sft import train_sft
from policies.tiny_base import train_tiny_base
from policies.tokenization import encode_completion, encode_prompt
from policies.training import quiet
from rewards.baselines import fit_bag_of_words, shortest
from rewards.comparisons import Answer, Comparison
from rewards.data.lengths import TokenLimits
from rewards.data.preference_data import load_preference_data
from rewards.data.splits import opening, position
from rewards.measurements import Measurement
from rewards.reward_model import Chooser, outcomes, train_reward_model
from tests.conftest import SHARED_DATA

SETTINGS = (
    "labeler.kind=preferences-file",
    "labeler.path=none.jsonl",  # nothing is labeled here
    "data.heldout_fraction=0.3333",
    "data.max_prompt_tokens=256",
    "data.max_completion_tokens=128",
    "base.vocabulary_size=4096",
    "base.pretraining_steps=600",
    "sft.micro_batch_size=16",
)
METHODS = ("shorter wins", "bag of words", "reward model", "reward + features")
BATCH = 64


class Models(NamedTuple):
    """What was trained on some pairs."""

    reward: Chooser
    bag: Chooser


def measure(config: RunConfig, folder: Path) -> dict[str, Any]:
    """The outcomes of each method on the held-out pairs of one split, and the openings of these pairs."""
    seed, started = config.seed, time.monotonic()
    data = load_preference_data(config.data, seed)
    base = folder / f"base-{seed}"
    dialogues = [(pair.prompt, answer) for pair in data.pairs for answer in (pair.chosen, pair.rejected)]
    if not (base / "config.json").exists():
        train_tiny_base(dialogues, config.base, base, Checkpoints(), derive_seed(seed, "base"), report_nothing)
        print(f"seed {seed}: base {time.monotonic() - started:.0f} s", flush=True)
    backbone = Backbone.load(str(base), config.base.model_copy(update={"model": str(base)}), config.lora)
    limits = TokenLimits(backbone.tokenizer, config.data.max_prompt_tokens, config.data.max_completion_tokens)
    (training, _), (heldout, _) = limits.keep(data.pairs), limits.keep(data.heldout)
    halves: list[list[Comparison]] = [[], []]
    for pair in training:
        halves[position("half", seed, pair.prompt) < 0.5].append(pair)
    whole, first, second = (train(backbone, name, rows, config) for name, rows in (("all", training), ("0", halves[0]), ("1", halves[1])))
    rows = np.concatenate([differences(backbone, second, halves[0]), differences(backbone, first, halves[1])])
    scale = rows.std(0)
    model = LogisticRegression(fit_intercept=False).fit(np.concatenate([rows, -rows]) / scale, [1] * len(rows) + [0] * len(rows))

    def with_features(answers: Sequence[Answer]) -> list[float]:
        return model.decision_function(features(backbone, whole, answers) / scale).tolist()

    choosers = (shortest, whole.bag, whole.reward, with_features)
    found = {name: outcomes(chooser, heldout) for name, chooser in zip(METHODS, choosers, strict=True)}
    weights, alone = (np.round(of_each, 2).tolist() for of_each in (model.coef_[0], (rows > 0).mean(0)))
    print(
        f"seed {seed}: {time.monotonic() - started:.0f} s; weights of the features {weights}, alone they are right in {alone}", flush=True
    )
    return as_rows(training, heldout, found)


def measure_baselines(config: RunConfig) -> dict[str, Any]:
    """The same for the two baselines, on rows of every length."""
    data = load_preference_data(config.data, config.seed)
    choosers = (shortest, fit_bag_of_words(data.pairs))
    return as_rows(
        data.pairs, data.heldout, {name: outcomes(chooser, data.heldout) for name, chooser in zip(METHODS, choosers, strict=False)}
    )


def as_rows(training: Sequence[Comparison], heldout: Sequence[Comparison], found: dict[str, Measurement]) -> dict[str, Any]:
    """What is kept of a split, as plain data."""
    units = [opening(pair.prompt) for pair in heldout]
    return {"training": len(training), "units": units} | {name: list(measurement.values) for name, measurement in found.items()}


def train(backbone: Backbone, name: str, pairs: Sequence[Comparison], config: RunConfig) -> Models:
    """SFT and reward model as in a run, and the bag of words, on the same pairs."""
    started = time.monotonic()
    tokenizer, seed, sft = backbone.tokenizer, derive_seed(config.seed, name), f"sft-{name}"
    examples = [(encode_prompt(tokenizer, p.prompt), encode_completion(tokenizer, p.chosen, p.chosen_finished)) for p in pairs]
    backbone.add_adapter(sft, seed=seed)
    train_sft(backbone, sft, examples, config.sft, Checkpoints(), seed, report_nothing)
    backbone.add_adapter(f"reward-{name}", copy_of=sft)
    print(f"seed {config.seed}, model {name}: SFT on {len(pairs)} pairs {time.monotonic() - started:.0f} s", flush=True)
    scorer, _ = train_reward_model(backbone, f"reward-{name}", pairs, config.reward, Checkpoints(), seed, report_nothing)
    print(f"seed {config.seed}, model {name}: reward model {time.monotonic() - started:.0f} s", flush=True)
    return Models(scorer.score_answers, fit_bag_of_words(pairs))


def differences(backbone: Backbone, models: Models, pairs: Sequence[Comparison]) -> np.ndarray:
    """The features of the chosen answers minus those of the rejected ones. The models must not have been trained on these pairs."""
    chosen = features(backbone, models, [Answer(pair.prompt, pair.chosen, pair.chosen_finished) for pair in pairs])
    return chosen - features(backbone, models, [Answer(pair.prompt, pair.rejected, pair.rejected_finished) for pair in pairs])


def features(backbone: Backbone, models: Models, answers: Sequence[Answer]) -> np.ndarray:
    """One row for each answer."""
    tokenizer = backbone.tokenizer
    prompts = [encode_prompt(tokenizer, answer.prompt) for answer in answers]
    completions = [encode_completion(tokenizer, answer.completion, answer.finished) for answer in answers]
    of_tokens: dict[int, torch.Tensor] = {}
    order = sorted(range(len(answers)), key=lambda i: len(prompts[i]) + len(completions[i]))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch = ResponseBatch.from_ids(backbone, [prompts[i] for i in rows], [completions[i] for i in rows])
        with torch.no_grad():
            logprobs = batch.under(None)[1]
        of_tokens |= {i: logprobs[row, : len(completions[i])] for row, i in enumerate(rows)}
    columns = (
        models.reward(answers),
        models.bag(answers),
        [of_tokens[i].mean().item() for i in range(len(answers))],
        [of_tokens[i].min().item() for i in range(len(answers))],
        [math.log(len(completion)) for completion in completions],
    )
    return np.array(columns).T


def print_table(splits: dict[int, dict[str, Any]], methods: Sequence[str]) -> None:
    """Accuracies by split, then over all splits with their paired differences. An opening counts as one unit, also over several splits."""
    print(f"\n| seed | training pairs | held-out pairs | {' | '.join(methods)} |\n|{' ---: |' * (3 + len(methods))}")
    for seed, split in splits.items():
        cells = [Measurement(split[name], split["units"]).mean() for name in methods]
        print(f"| {seed} | {split['training']} | {len(split['units'])} | {' | '.join(_text(cell) for cell in cells)} |")
    units = [unit for split in splits.values() for unit in split["units"]]
    pooled = {name: Measurement([value for split in splits.values() for value in split[name]], units) for name in methods}
    print(f"\n| over all splits | accuracy | {' | '.join(f'over {name}' for name in methods[:-1])} |\n| --- |{' ---: |' * len(methods)}")
    for place, name in enumerate(methods):
        gains = [_text((pooled[name] - pooled[other]).mean(), "+.3f") if place > i else "" for i, other in enumerate(methods[:-1])]
        print(f"| {name} | {_text(pooled[name].mean())} | {' | '.join(gains)} |")


def _text(summary: dict, form: str = ".3f") -> str:
    return f"{summary['mean']:{form}} ± {summary['standard_error']:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "loop-real-pairs")
    parser.add_argument("--simple", action="store_true", help="judge only the two baselines, on rows of every length")
    options = parser.parse_args()
    source = SHARED_DATA / "hh_harmless" / "pairs.jsonl.gz"
    if not source.exists():
        raise SystemExit(f"the real pairs are not here: {source} (set LOOP_SHARED_DATA)")
    quiet()
    options.folder.mkdir(parents=True, exist_ok=True)
    configs = [load_config(overrides=[f"data={source}", *SETTINGS], seed=seed) for seed in options.seeds]
    if options.simple:
        print_table({config.seed: measure_baselines(config) for config in configs}, METHODS[:2])
        return
    splits = {}
    for config in configs:
        kept = options.folder / f"split-{config.seed}.json"
        if not kept.exists():
            kept.write_text(json.dumps(measure(config, options.folder)), encoding="utf-8")
        splits[config.seed] = json.loads(kept.read_text(encoding="utf-8"))
    print_table(splits, METHODS)


if __name__ == "__main__":
    main()
