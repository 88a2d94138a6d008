"""How often each stage does what: steps of training, responses, passes. From that follow FLOPs and, with a few timed steps, the time.

Must never import torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.judging import prompts_compared
from configs.schema import RunConfig
from configs.sections import ANSWERS_LOOKED_AT
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
MORE_LOOKS = 7
"""How often the guard of PPO looks besides every `ppo.evaluate_every` updates: once at the reference, once early, and about five times
because the policy has moved, as at the embedded default."""
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


def setup_work(config: RunConfig, pairs: Pairs) -> dict[str, dict[str, float]]:
    """Stage before round 0 -> unit -> how often it is done."""
    work: dict[str, dict[str, float]] = {}
    if config.base.model == "embedded":
        work["base"] = {"pretraining": config.base.pretraining_steps}
    work["sft"] = {"sft": _steps(pairs.training, config.sft)}
    if config.uses_pmp:
        work["pmp"] = _votes_work(config, pairs)
    if "reward-model" in config.labeler.kinds:
        trained = {} if config.labeler.model else {"reward": _steps(pairs.training, config.reward)}
        work["labeler"] = trained | {"score": 2 * pairs.heldout / SCORING_ROWS}
    work["baseline"] = {"sample": config.evaluate.num_prompts / config.generation.batch_size}
    return work


def _votes_work(config: RunConfig, pairs: Pairs) -> dict[str, float]:
    """What preference-model pretraining does. Nobody knows how many pairs votes give before they are read, so `pmp.max_pairs` or
    ASSUMED_PAIRS is taken. A comparison counts as one of the reward model's; the loss on the better answer is not counted."""
    votes = config.pmp.max_pairs or ASSUMED_PAIRS
    heldout = votes * config.data.heldout_fraction
    compared = (votes - heldout) * config.pmp.num_epochs * (1 + config.pmp.binarised)
    return {"reward": compared / config.reward.batch_size, "score": 2 * (heldout + pairs.heldout) / SCORING_ROWS}


def round_work(config: RunConfig, pairs: Pairs, round_number: int) -> dict[str, dict[str, float]]:
    """Stage of a round -> unit -> how often it is done. Only round 0 trains a reward model before PPO. `keep` computes nothing new."""
    generation, evaluated = config.generation.batch_size, config.evaluate.num_prompts
    sampled = config.sample.num_prompts * config.sample.num_completions * (1 + config.sample.earlier_fraction)
    reference, is_first = config.reward.normalization_samples, round_number == 0
    score, draw = 1 / SCORING_ROWS, 1 / generation
    heldout = {"score": 2 * pairs.heldout * score}
    judged = {"sample": reference * draw, "score": (2 * pairs.heldout + reference) * score}
    work: dict[str, dict[str, float]] = {}
    work["reward"] = {"reward": _steps(pairs.training, config.reward)} | judged if is_first else heldout
    work["policy"] = _policy_work(config, pairs, round_number)
    work["sample"] = {"sample": sampled * draw}
    looked_at = {"score": sampled * score, "logprobs": 2 * sampled * score}  # log-probs under the SFT adapter and under the base
    if config.labeler.pick != "random":
        work["committee"] = looked_at
    if config.labeler.win_rate_fraction:  # round 0 draws the SFT policy's answers too
        work["answer"] = {"sample": prompts_compared(config.labeler, config.sample.num_prompts) * (1 + is_first) * draw}
    work["retrain"] = {"reward": _steps(_mixture(config, pairs, round_number), config.reward)} | judged
    work["select"] = looked_at | {"score": 2 * sampled * score}
    work["keep"] = {}
    if config.is_refreshed:
        work["refresh"] = {"sft": _steps(config.keep.max_rows, config.keep)}
    answered = evaluated * max(config.evaluate.best_of, 1)
    probed = min(config.evaluate.probes, evaluated) * PROBE_FORMS
    scored = answered + probed + 4 * pairs.heldout
    work["evaluate"] = {"sample": (answered + probed) * draw, "score": scored * score, "logprobs": (2 * evaluated + 2 * answered) * score}
    return work


def _policy_work(config: RunConfig, pairs: Pairs, round_number: int) -> dict[str, float]:
    """What makes the policy of a round. A pair of DPO counts as one of the reward model's, and its reference as log-probs of two rows."""
    if config.trainer == "dpo":
        rows = _mixture(config, pairs, round_number - 1) if round_number else pairs.training
        return {"reward": rows * config.dpo.num_epochs / config.reward.batch_size, "logprobs": 2 * rows / SCORING_ROWS}
    ppo, reads_features = config.ppo, config.ppo.score == "features" and round_number > 0
    looks = MORE_LOOKS + math.ceil(ppo.num_updates / ppo.evaluate_every) if ppo.evaluate_every else 0
    looked_at = looks * ppo.evaluate_prompts * ANSWERS_LOOKED_AT
    # With features, each response is read under two adapters, and so are those of the reference.
    reference = config.reward.normalization_samples if reads_features else 0
    read = ppo.num_updates * ppo.batch_size + reference + looked_at if reads_features else 0
    return {
        "policy": ppo.num_updates,
        "sample": (reference + looked_at) / config.generation.batch_size,
        "score": looked_at / SCORING_ROWS,
        "logprobs": 2 * (read + looked_at) / SCORING_ROWS,
    }


def stage_work(config: RunConfig, pairs: Pairs) -> dict[str, dict[str, float]]:
    """Stage -> unit -> how often it is done, in the mean over the rounds; `reward` as in round 0, because later rounds do not train it."""
    rounds = [round_work(config, pairs, number) for number in range(config.num_rounds)]
    means = {
        stage: {
            unit: sum(done[stage].get(unit, 0) for done in rounds) / len(rounds) for unit in {k: 0 for done in rounds for k in done[stage]}
        }
        for stage in rounds[0]
    }
    return setup_work(config, pairs) | means | {"reward": rounds[0]["reward"]}


def units_of(work: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The units that the stages need, each once, in order."""
    return list(dict.fromkeys(unit for units in work.values() for unit in units))


def labels_of_round(config: RunConfig) -> int:
    """How many comparisons the labeler is asked for in each round, at most: equal completions of a prompt are not compared.

    With `labeler.kind: preferences-file` it is what the file would hold if it had as many pairs as another labeler is asked for.
    """
    sample, completions = config.sample, config.sample.num_completions
    of_a_prompt = min(config.labeler.pairs_per_prompt, completions * (completions - 1) // 2)
    if config.labeler.budget is None:
        return sample.num_prompts * of_a_prompt
    heldout = round(sample.num_prompts * sample.heldout_fraction)
    return min(config.labeler.budget, (sample.num_prompts - heldout) * of_a_prompt) + heldout * of_a_prompt


def wins_of_round(config: RunConfig, round_number: int) -> int:
    """How many comparisons for win rates the labeler is asked for as well, at most. Nothing is trained on them.

    The policy of the round is compared with the SFT policy, and from round 1 on with that of the last round too.
    """
    if not config.labeler.win_rate_fraction:
        return 0
    return prompts_compared(config.labeler, config.sample.num_prompts) * (1 if round_number == 0 else 2)


def _mixture(config: RunConfig, pairs: Pairs, round_number: int) -> int:
    """How many rows the reward model of a round is retrained on, at most (rewards/replay.py)."""
    labels = round(labels_of_round(config) * (1 - config.sample.heldout_fraction))
    everything = pairs.training + (round_number + 1) * labels
    if config.retrain.data == "last":
        return labels
    limit = config.retrain.mixture_pairs if config.retrain.data == "sample" else config.retrain.max_pairs
    return min(limit or everything, everything)


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


SETUP = ("base", "sft", "pmp", "labeler", "baseline")
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
    before = adapter * (1 + config.uses_pmp)
    adapters = 3 + (config.ppo.value_model == "adapter") + ("model" in config.select.kinds) + config.is_refreshed
    return {"setup": base + before, "each round": adapters * adapter + 4 * text, "checkpoint": 3 * adapter}


def _steps(rows: int, section: object) -> int:
    """The optimizer steps of a training."""
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
