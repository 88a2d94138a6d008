"""What a policy does on held-out prompts, in numbers: gold or labeler score, proxy score, KL, length, defects.

Nothing here trains. Every mean comes with its standard error and the number of samples behind it.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from configs.schema import GenerationConfig
from policies.advantages import kl_per_token
from policies.backbone import Backbone
from policies.generation import Response
from policies.logprobs import logprobs_of, response_states
from policies.tokenization import pad_batch
from rewards import rules, world
from rewards.comparisons import Sample

KL_BATCH = 128


def summarize(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean, standard error of the mean, count; None where there is nothing to take the mean of."""
    if not values:
        return {"mean": None, "standard_error": None, "count": 0}
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)
    return {"mean": mean, "standard_error": math.sqrt(variance / len(values)), "count": len(values)}


def defect_rates(samples: Sequence[Sample]) -> dict[str, float]:
    """Share of samples with each defect of `rules.DEFECTS`."""
    known = world.all_prompts()
    found = []
    for sample in samples:
        prompt = sample.prompt
        question = prompt if isinstance(prompt, str) else " ".join(m["content"] for m in prompt if m["role"] == "user")
        refusal_is_due = sample.prompt_id in known and known[sample.prompt_id].source == "redteam"
        found.append(rules.find_defects(question, sample.completion, sample.finished, refusal_is_due))
    return {name: sum(row[name] for row in found) / len(found) for name in rules.DEFECTS}


@torch.no_grad()
def kl_to_reference(
    backbone: Backbone,
    policy: str | None,
    reference: str | None,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Response],
    config: GenerationConfig,
) -> list[float]:
    """Nats per response: the sum over tokens of log policy - log reference, on the policy's own samples."""
    kls: list[float] = [0.0] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(responses[i].token_ids))
    for start in range(0, len(order), KL_BATCH):
        rows = order[start : start + KL_BATCH]
        ids = [responses[i].token_ids for i in rows]
        batch = pad_batch([prompts[i] for i in rows], ids, backbone.tokenizer.pad_token_id, backbone.device)
        logprobs = []
        for adapter in (policy, reference):
            with backbone.role(adapter):
                states = response_states(backbone, batch)
                logprobs.append(logprobs_of(backbone, states, batch, config.temperature))
        for i, kl in zip(rows, kl_per_token(*logprobs).sum(1).tolist(), strict=True):
            kls[i] = kl
    return kls


def flatten(metrics: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a/b": 1}, the form that trackers expect."""
    flat: dict[str, Any] = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}/")
        else:
            flat[prefix + key] = value
    return flat
