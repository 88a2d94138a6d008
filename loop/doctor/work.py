"""How often each stage does what: steps of training, responses, passes. From that follow FLOPs and, with a few timed steps, the time.

Must never import torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.schema import RunConfig
from loop.doctor.lengths import Lengths
from loop.doctor.needs import BLOCK, SCORING_ROWS
from policies.footprint import Model

UNITS = ("pretraining", "sft", "reward", "policy", "sample", "score", "logprobs")
"""What is timed (trial.py): a step of each training, an update of PPO, `generation.batch_size` responses, and a pass over SCORING_ROWS rows
that scores them or measures their log-probs."""
ASSUMED_PAIRS = 10_000
"""How many pairs are assumed where the data cannot be counted without reading all of it."""
COUNTED = (".jsonl", ".csv")
"""Files in which a line is about one pair."""
PROBE_FORMS = 3
"""In how many forms a prompt is answered for `evaluate.probes`; in Thai it is one more."""
TRAINER_SECONDS = 4.0
"""What the start of a trainer of TRL takes, once for each training."""


@dataclass(frozen=True)
class Pairs:
    """How many pairs a run has, for training and held out, and whether that is counted or assumed."""

    training: int
    heldout: int
    is_assumed: bool = False


def count_pairs(config: RunConfig) -> Pairs:
    """The pairs of the embedded world, the lines of a file, `data.max_pairs`, or an assumption."""
    data = config.data
    if data.source == "embedded":
        return Pairs(data.num_pairs, round(data.num_pairs * data.heldout_fraction))
    of_pairs = [source.path for source in data.sources if source.kind in (None, "pairs")]
    named = [data.source] if isinstance(data.source, str) else data.source or of_pairs
    lines = _count_lines(named)
    pairs = min(data.max_pairs or lines or ASSUMED_PAIRS, lines or ASSUMED_PAIRS) if lines else data.max_pairs or ASSUMED_PAIRS
    heldout = round(pairs * data.heldout_fraction)
    return Pairs(round((pairs - heldout) * (1 - data.labeler_fraction)), heldout, lines is None and data.max_pairs is None)


def stage_work(config: RunConfig, pairs: Pairs) -> dict[str, dict[str, float]]:
    """Stage -> unit -> how often it is done, in the mean over the rounds. Comparisons of earlier rounds are not counted."""
    generation, evaluated = config.generation.batch_size, config.evaluate.num_prompts
    sampled = config.sample.num_prompts * config.sample.num_completions * (1 + config.sample.earlier_fraction)
    labels = config.sample.num_prompts * config.labeler.pairs_per_prompt
    mixture = min(config.retrain.max_pairs or 10**9, pairs.training + labels)
    reference = config.reward.normalization_samples
    best_of = max(config.evaluate.best_of, 1)
    score, draw = 1 / SCORING_ROWS, 1 / generation
    reads = 2 * sampled * score  # log-probs under the SFT adapter and under the base, for the features
    work: dict[str, dict[str, float]] = {}
    if config.base.model == "embedded":
        work["base"] = {"pretraining": config.base.pretraining_steps}
    work["sft"] = {"sft": _steps(pairs.training, config.sft)}
    if "reward-model" in config.labeler.kinds:
        trained = {} if config.labeler.model else {"reward": _steps(pairs.training, config.reward)}
        work["labeler"] = trained | {"score": 2 * pairs.heldout * score}
    work["baseline"] = {"sample": evaluated * draw}
    judged = {"sample": reference * draw, "score": (2 * pairs.heldout + reference) * score}
    work["reward"] = {"reward": _steps(pairs.training, config.reward)} | judged
    work["policy"] = {"policy": config.ppo.num_updates}
    if config.ppo.score == "features":  # from round 1 on, each response is read under two adapters as well
        read = 2 * config.ppo.num_updates * config.ppo.batch_size * score
        work["policy"]["logprobs"] = read * (config.num_rounds - 1) / config.num_rounds
    work["sample"] = {"sample": sampled * draw}
    work["retrain"] = {"reward": _steps(mixture, config.reward)} | judged
    work["select"] = {"score": 2 * sampled * score, "logprobs": reads}
    work["keep"] = {"score": sampled * score, "logprobs": reads}
    if config.ppo.init == "selected":
        work["refresh"] = {"sft": _steps(config.keep.max_rows, config.keep)}
    answered = evaluated * best_of
    probed = min(config.evaluate.probes, evaluated) * PROBE_FORMS
    scored = answered + probed + 4 * pairs.heldout
    work["evaluate"] = {"sample": (answered + probed) * draw, "score": scored * score, "logprobs": (2 * evaluated + 2 * answered) * score}
    return work


def stage_seconds(work: Mapping[str, Mapping[str, float]], unit_seconds: Mapping[str, float]) -> dict[str, float]:
    """Stage -> its seconds, from the seconds of each unit."""
    starts = {"sft", "reward"}
    return {
        stage: sum(count * unit_seconds[unit] + TRAINER_SECONDS * (unit in starts) for unit, count in units.items())
        for stage, units in work.items()
    }


def unit_flops(model: Model, config: RunConfig, lengths: Lengths) -> dict[str, float]:
    """Unit -> its floating-point operations, with rows of mean length."""
    ppo, row = config.ppo, lengths.mean_prompt + lengths.mean_completion
    response = min(lengths.mean_completion, lengths.longest_response)
    answered = lengths.mean_prompt + response
    batch = ppo.batch_size * answered
    block = config.base.pretraining_batch_size * BLOCK
    forward = model.forward_flops(batch, answered, ppo.batch_size * response)
    training = model.training_flops(batch, answered, ppo.batch_size * response)
    sampled = config.generation.batch_size
    return {
        "pretraining": 3 * model.forward_flops(block, BLOCK, block),
        "sft": model.training_flops(config.sft.batch_size * row, row, config.sft.batch_size * row),
        "reward": model.training_flops(2 * config.reward.batch_size * row, row),
        # Sampling, the reference, the reward model and, where asked, the policy once more; then the epochs.
        "policy": forward * (3 + ppo.recompute_logprobs) + training * ppo.num_epochs,
        "sample": model.forward_flops(sampled * answered, answered, sampled * response),
        "score": model.forward_flops(SCORING_ROWS * row, row),
        "logprobs": model.forward_flops(SCORING_ROWS * row, row, SCORING_ROWS * lengths.mean_completion),
    }


def stage_flops(work: Mapping[str, Mapping[str, float]], flops: Mapping[str, float]) -> dict[str, float]:
    """Stage -> its floating-point operations."""
    return {stage: sum(count * flops[unit] for unit, count in units.items()) for stage, units in work.items()}


SETUP = ("base", "sft", "labeler", "baseline")
"""The stages that are made once. All others are made in every round, and `reward` trains in round 0 only."""


def whole_run(of_stages: Mapping[str, float], config: RunConfig) -> float:
    """The sum over a run of something that each stage has, such as seconds."""
    once = sum(value for stage, value in of_stages.items() if stage in (*SETUP, "reward"))
    in_each_round = sum(value for stage, value in of_stages.items() if stage not in (*SETUP, "reward"))
    return once + config.num_rounds * in_each_round


def disk_bytes(model: Model, config: RunConfig, lengths: Lengths) -> dict[str, int]:
    """What a run writes: setup, each round, and the largest checkpoint. Samples are counted with 4 bytes a token and 1 KB around them."""
    adapter, base = model.adapter_bytes, model.base_bytes if config.base.model == "embedded" else 0
    sampled = config.sample.num_prompts * config.sample.num_completions + config.evaluate.num_prompts * max(config.evaluate.best_of, 1)
    text = sampled * (1024 + 4 * (lengths.longest_prompt + lengths.longest_response))
    adapters = 3 + (config.ppo.value_model == "adapter") + ("model" in config.select.kinds) + (config.ppo.init == "selected")
    return {"setup": base + adapter, "each round": adapters * adapter + 4 * text, "checkpoint": 3 * adapter}


def _steps(rows: int, section: object) -> int:
    """The optimiser steps of a training."""
    batches = math.ceil(rows / section.batch_size)  # type: ignore[attr-defined]
    return max(1, math.ceil(batches * section.num_epochs))  # type: ignore[attr-defined]


def _count_lines(sources: list[str]) -> int | None:
    """The lines of all files; None where one is no file on this machine, or is of a kind that has no lines."""
    if not all(Path(source).suffix in COUNTED and Path(source).is_file() for source in sources):
        return None
    total = 0
    for source in sources:
        with open(source, "rb") as file:
            total += sum(1 for _ in file)
    return total
