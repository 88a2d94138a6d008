"""How a policy does on held-out prompts while it is trained: a cheap look every few updates. It is compared with the policy from which PPO
measures the KL divergence, on the same prompts.

A look is a few answers to each of a few prompts, always with the same random numbers, which belong to nothing else in the run. Looks at two
policies can therefore be compared prompt by prompt. A look must never change the policy, nor use up a random number of its training.

The judge of another kind is a bag of words that was fitted on held-out comparisons, which no reward model was trained on. It is cheap, and
it does not share the reward model's representation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from configs.fields import DEFAULT_RULES
from configs.schema import GenerationConfig
from configs.sections import ANSWERS_LOOKED_AT
from configs.seeds import derive_seed
from policies.backbone import Backbone
from policies.batching import batches_by_length
from policies.checkpoints import Checkpoints
from policies.generation import generate_sharded
from policies.responses import EncodedPrompt, Response, ResponseBatch, ResponseRecord, ScoreFunction, make_records
from policies.tokenization import encode_prompt
from rewards.comparisons import Answer, PromptRecord
from rewards.evaluation import REFERENCE
from rewards.measurements import Measurement, Summary
from rewards.overoptimization import SFT_POLICY, Evidence
from rewards.reward_model import Chooser
from rewards.rules.duplicates import texts_to_compare
from rewards.rules.reply import Rule
from rewards.world.replies import defects_of

RULES = DEFAULT_RULES
"""The defects that are counted: built-in ones only, so that no function of the user's makes the policy again when it is edited."""
SMALLEST_STD = 1e-4
"""Values that vary less say nothing, and dividing by their standard deviation would make something of it."""


@dataclass(frozen=True)
class HeldoutAnswers:
    """What was measured of each answer. scores: by what PPO maximizes. other: by the judge of another kind, if there is one.

    logprobs: nats for each token under the SFT policy. kl: nats for each answer, to what PPO measures the KL divergence from.
    """

    records: Sequence[ResponseRecord]
    scores: Measurement
    other: Measurement | None
    defects: Mapping[str, float]
    logprobs: Sequence[float]
    kl: Sequence[float]

    @cached_property
    def lengths(self) -> list[int]:
        """The length of each answer in tokens."""
        return [len(record.token_ids) for record in self.records]

    def figures(self) -> dict[str, Any]:
        """Means over the answers, and the share of answers with each defect."""
        means = {"score": self.scores.values, "length": self.lengths, "kl": self.kl} | ({"other": self.other.values} if self.other else {})
        return {name: float(np.mean(values)) for name, values in means.items()} | {"defects": dict(self.defects)}


class HeldoutLooks:
    """Looks at policies of one backbone. `score` is what PPO maximizes."""

    def __init__(
        self,
        backbone: Backbone,
        generation: GenerationConfig,
        score: ScoreFunction,
        prompts: Sequence[PromptRecord],
        seed: int,
        other: Chooser | None = None,
        rules: Mapping[str, Rule] | None = None,
        num_answers: int = ANSWERS_LOOKED_AT,
    ):
        """prompts: held-out ones, each of which gets `num_answers` answers. seed: decides the answers."""
        self.backbone, self.generation, self.score, self.other = backbone, generation, score, other
        self.reference: str | None = REFERENCE
        """The adapter from which PPO measures the KL divergence; None is the bare base. It is set before the first look."""
        records = [record for record in prompts for _ in range(num_answers)]
        self.prompts = [EncodedPrompt(encode_prompt(backbone.tokenizer, r.prompt), r.prompt, r.prompt_id, r.source) for r in records]
        self.seeds = [derive_seed(seed, record.prompt_id, i % num_answers) for i, record in enumerate(records)]
        self.rules = rules or {}

    @cached_property
    def of_reference(self) -> HeldoutAnswers:
        """The answers with which all others are compared: those of the policy from which PPO measures the KL divergence."""
        return self.look(self.reference or REFERENCE)

    @torch.no_grad()
    def look(self, adapter: str) -> HeldoutAnswers:
        """Look at a policy. All workers share the sampling, and all have the result."""
        ids = [prompt.token_ids for prompt in self.prompts]
        responses = generate_sharded(self.backbone, adapter, ids, self.seeds, self.generation, Checkpoints(), "heldout")
        records = make_records(self.backbone.tokenizer, self.prompts, responses)
        units = [prompt.prompt_id for prompt in self.prompts]
        passes = {name: self._logprobs(name, responses) for name in dict.fromkeys((REFERENCE, self.reference, adapter))}
        answers = [Answer(record.prompt, record.completion, record.finished) for record in records]
        return HeldoutAnswers(
            records=records,
            scores=Measurement(torch.as_tensor(self.score(records), dtype=torch.float32).tolist(), units),
            other=Measurement(self.other(answers), units) if self.other else None,
            defects=self._defects(records),
            logprobs=[total / max(1, len(r.token_ids)) for total, r in zip(passes[REFERENCE], responses, strict=True)],
            kl=[a - b for a, b in zip(passes[adapter], passes[self.reference], strict=True)],
        )

    def _defects(self, records: Sequence[ResponseRecord]) -> dict[str, float]:
        others = texts_to_compare(self.rules, ((record.prompt, record.completion) for record in records))
        found = [defects_of(r.prompt_id, r.prompt, r.source, r.completion, r.finished, self.rules, others) for r in records]
        return {name: sum(row[name] for row in found) / len(found) for name in self.rules}

    def _logprobs(self, adapter: str | None, responses: Sequence[Response]) -> list[float]:
        """The log-prob of each response under an adapter, in nats."""
        totals = [0.0] * len(responses)
        lengths = [len(p.token_ids) + len(r.token_ids) for p, r in zip(self.prompts, responses, strict=True)]
        for rows in batches_by_length(lengths, self.backbone.tokens_per_batch):
            batch = ResponseBatch.from_ids(
                self.backbone,
                [self.prompts[i].token_ids for i in rows],
                [responses[i].token_ids for i in rows],
                temperature=self.generation.temperature,
            )
            for i, total in zip(rows, batch.under(adapter)[1].double().sum(1).tolist(), strict=True):
                totals[i] = total
        return totals


def evidence(now: HeldoutAnswers, before: HeldoutAnswers, beside: str = SFT_POLICY, kl_coefficient: float | None = None) -> Evidence:
    """What a look says for and against over-optimization, beside another policy. All gains are in standard deviations of its scores.

    before: the other policy's answers. beside: its name, for people. kl_coefficient: see `Evidence`.
    """
    gain, other = _in_deviations(now.scores, before.scores), _in_deviations(now.other, before.other)
    return Evidence(
        defects=now.defects,
        sft_defects=before.defects,
        lengths=now.lengths,
        sft_lengths=before.lengths,
        scores=now.scores,
        sft_scores=before.scores,
        kl=now.kl,
        kl_coefficient=kl_coefficient,
        other_gain=other.mean() if other else None,
        gap=(gain - other).mean() if gain and other else None,
        choice=_choice(now, before),
        score_logprob=_correlation(now.scores.values, now.logprobs),
        beside=beside,
    )


def _in_deviations(now: Measurement | None, sft: Measurement | None) -> Measurement | None:
    """The gains in standard deviations of the SFT policy's values. None where there are none, or where all are the same."""
    if not (now and sft) or (std := float(np.std(sft.values, ddof=1))) < SMALLEST_STD:
        return None
    return Measurement([(a - b) / std for a, b in zip(now.values, sft.values, strict=True)], now.units)


def _choice(now: HeldoutAnswers, sft: HeldoutAnswers) -> Summary | None:
    """What the other judge thinks of the answer that scores highest among those to a prompt, over their mean."""
    if not (now.other and sft.other) or (std := float(np.std(sft.other.values, ddof=1))) < SMALLEST_STD:
        return None
    units = now.scores.units
    size = len(units) // len(set(units))
    scores, others = (np.asarray(of.values).reshape(-1, size) for of in (now.scores, now.other))
    best = others[np.arange(len(others)), scores.argmax(1)]
    return Measurement(((best - others.mean(1)) / std).tolist(), units[::size]).mean()


def _correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation. None where one of the two is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)
