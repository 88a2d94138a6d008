"""What a policy does on held-out prompts, in numbers: gold reward, KL, length, defects. Nothing here trains.

Every policy answers the same prompts with the same seeds, so policies of different rounds are compared prompt by prompt.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.schema import EvaluateConfig, GenerationConfig
from configs.seeds import derive_seed, draw
from policies.advantages import kl_per_token
from policies.backbone import Backbone
from policies.batching import batches_by_length
from policies.responses import Response, ResponseBatch
from rewards.comparisons import PromptRecord, Sample, write_jsonl
from rewards.gold import Gold
from rewards.measurements import Measurement, Summary
from rewards.rules import find_rules
from rewards.rules.duplicates import texts_to_compare
from rewards.rules.reply import ExpectedLanguage, Rule
from rewards.sampling import Sampler
from rewards.shown import as_shown
from rewards.shown import measure as measure_pivot
from rewards.world.replies import defects_of

REFERENCE = "sft"
"""The adapter from which a policy's KL is measured."""


@dataclass(frozen=True)
class Evaluation:
    """A policy's samples, one for each prompt, and what was measured of them, by the measurement's name."""

    samples: Sequence[Sample]
    measured: dict[str, Measurement]
    defects: dict[str, float]
    """The share of samples with each defect, by the rule's name."""

    def adding(self, **measured: Measurement) -> "Evaluation":
        """The same evaluation with more measurements of the same samples."""
        return replace(self, measured=self.measured | measured)

    def write(self, folder: Path) -> None:
        """Write the samples and the measurements, one line for each prompt."""
        write_jsonl(folder / "samples.jsonl", self.samples)
        rows = zip(*(measurement.values for measurement in self.measured.values()), strict=True)
        named = [dict(zip(self.measured, row, strict=True)) for row in rows]
        write_jsonl(
            folder / "measurements.jsonl",
            ({"prompt_id": sample.prompt_id, **row} for sample, row in zip(self.samples, named, strict=True)),
        )

    def summary(self) -> dict[str, Any]:
        """The mean of each measurement, the share of samples with each defect, and how many were answered by way of another language."""
        means = {name: measurement.mean() for name, measurement in _with_facts(self.measured, self.samples).items()}
        pivot = measure_pivot(self.samples)
        return means | {"defects": self.defects} | ({"pivot": pivot} if pivot else {})

    def gains_over(self, folder: Path) -> dict[str, Summary]:
        """The mean differences from the evaluation in `folder`, in all that was measured there too. They are paired by prompt."""
        with (folder / "measurements.jsonl").open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        units = [row["prompt_id"] for row in rows]
        gains = {
            name: measurement - Measurement([row[name] for row in rows], units)
            for name, measurement in self.measured.items()
            if all(name in row for row in rows)
        }
        return {name: gain.mean() for name, gain in _with_facts(gains, self.samples).items()}


def evaluate_policy(
    sampler: Sampler,
    adapter: str,
    prompts: Sequence[PromptRecord],
    config: EvaluateConfig,
    seed: int,
    round_number: int | None,
    gold: Gold | None,
    expected_language: ExpectedLanguage = "same",
) -> Evaluation:
    """Measure the policy `adapter` on prompts that are drawn from `prompts`, with one sample for each.

    seed: decides prompts and samples, so it is the same in every round. gold: gives the true reward of the samples, if they have one.
    expected_language: what the rules are told.
    """
    records = draw(prompts, config.num_prompts, seed)
    seeds = [derive_seed(seed, record.prompt_id) for record in records]
    responses = sampler.respond(adapter, records, seeds, "responses")
    samples = [
        sampler.make_sample(record.prompt_id, record, response, round_number) for record, response in zip(records, responses, strict=True)
    ]
    samples = sampler.shown(samples, "responses")
    values: dict[str, Sequence[float]] = {"length": [sample.num_tokens for sample in samples]}
    if adapter != REFERENCE:  # the reference has no distance from itself
        values["kl"] = kl_to_reference(sampler.backbone, adapter, REFERENCE, sampler.encode(records), responses, sampler.config)
    if gold:
        true_rewards = gold(samples)
        values["gold"] = [true_rewards[sample.id] for sample in samples]
    units = [sample.prompt_id for sample in samples]
    measured = {name: Measurement(of_each, units) for name, of_each in values.items()}
    return Evaluation(samples, measured, defect_rates(samples, find_rules(config.rules, expected_language)))


def defect_rates(samples: Sequence[Sample], rules: Mapping[str, Rule]) -> dict[str, float]:
    """The share of samples in which each rule finds its defect, in what people see of them."""
    samples = [as_shown(sample) for sample in samples]
    others = texts_to_compare(rules, ((s.prompt, s.completion) for s in samples))
    found = [defects_of(s.prompt_id, s.prompt, s.source, s.completion, s.finished, rules, others) for s in samples]
    return {name: sum(row[name] for row in found) / len(found) for name in rules}


def kl_to_reference(
    backbone: Backbone,
    policy: str | None,
    reference: str | None,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Response],
    config: GenerationConfig,
) -> list[float]:
    """Nats per response: the sum over its tokens of log policy - log reference, on the policy's own samples."""
    kls: list[float] = [0.0] * len(prompts)
    lengths = [len(prompt) + len(response.token_ids) for prompt, response in zip(prompts, responses, strict=True)]
    for rows in batches_by_length(lengths, backbone.tokens_per_batch):
        batch = ResponseBatch.from_ids(
            backbone, [prompts[i] for i in rows], [responses[i].token_ids for i in rows], temperature=config.temperature
        )
        kl_of_tokens = kl_per_token(batch.under(policy)[1], batch.under(reference)[1])
        for i, kl in zip(rows, kl_of_tokens.sum(1).tolist(), strict=True):
            kls[i] = kl
    return kls


def _with_facts(measured: dict[str, Measurement], samples: Sequence[Sample]) -> dict[str, Measurement]:
    """All measurements, and gold by the kind of prompt: those whose facts training asks about too, and the others."""
    parts = dict(measured)
    for name, unseen in (("gold_seen_facts", False), ("gold_unseen_facts", True)):
        chosen = [sample.unseen_fact == unseen for sample in samples]
        if "gold" in measured and any(chosen):
            parts[name] = measured["gold"].where(chosen)
    return parts
