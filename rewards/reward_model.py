"""The reward model: trained on comparisons, normalized, and judged by how often it prefers the chosen completion.

    d = r(chosen) - r(rejected)
    loss = -log sigmoid(d)                                 Bradley-Terry; arXiv 2009.01325, equation 1
    loss = -p log sigmoid(d) - (1 - p) log sigmoid(-d)     `reward.targets: soft`; the chosen one is better with probability p
         = -log sigmoid(d) + (1 - p) d                     because log sigmoid(-d) = log sigmoid(d) - d

A tie has p = 1/2: the same as training on both orders with half the weight each. Its gradient, sigmoid(d) - 1/2, pulls the two scores
together. TRL's RewardTrainer trains it on the shared base. An artifact is a PEFT folder with the head, and `normalization.json`: the scores
have mean 0 and standard deviation 1 on samples of the reference policy, so the KL coefficient means the same in every round (arXiv
1909.08593, section 2.2).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from configs.errors import UserError
from configs.schema import GenerationConfig, RewardConfig
from configs.seeds import derive_seed, draw
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.generation import generate_sharded
from policies.reporting import Report
from policies.responses import EncodedPrompt, ResponseRecord, make_records
from policies.tokenization import as_read, encode_prompt
from policies.training import Log, Training
from rewards.comparisons import Answer, Comparison, PromptRecord, Sample
from rewards.data.splits import opening
from rewards.measurements import Measurement, wins
from rewards.scoring import Scorer, ScoringModel, encode_pair

CARRIED = "margin"
"""The column in which TRL's collator hands on one number of each row: here the doubt, in `pretraining.py` a length."""
Chooser = Callable[[Sequence[Answer]], list[float]]
"""Gives each answer a score. The answer with the highest score is chosen."""


def encode_comparison(backbone: Backbone, pair: Comparison) -> tuple[list[int], list[int]]:
    """Return the token ids of the chosen and of the rejected completion, each with the prompt."""
    tokenizer = backbone.tokenizer
    return (
        encode_pair(tokenizer, pair.prompt, pair.chosen, pair.chosen_finished),
        encode_pair(tokenizer, pair.prompt, pair.rejected, pair.rejected_finished),
    )


def train_reward_model(
    backbone: Backbone,
    adapter: str,
    pairs: Sequence[Comparison],
    config: RewardConfig,
    checkpoints: Checkpoints,
    seed: int,
    report: Report,
    head: torch.Tensor | None = None,
) -> tuple[Scorer, Log]:
    """Train `adapter`, which must exist, and a linear head, by TRL's RewardTrainer.

    head: what the head [1, H] starts from; None means a random one. Returns the scorer, not yet normalized, and the log.
    """
    rows: list[dict[str, Any]] = []
    for pair in pairs:
        chosen, rejected = encode_comparison(backbone, pair)
        rows.append({"chosen_ids": chosen, "rejected_ids": rejected} | ({CARRIED: doubt(pair)} if config.targets == "soft" else {}))
    with backbone.role(adapter, train=True):
        model = ScoringModel(backbone, seed, head)
        training = Training(config, checkpoints, seed, report)
        log = fit_comparisons(training, model, rows, backbone.tokenizer, _soft if config.targets == "soft" else None)
    return Scorer(backbone, adapter, model.score.weight.detach()), log


def fit_comparisons(
    training: Training,
    model: ScoringModel,
    rows: Sequence[dict[str, Any]],
    tokenizer: Any,
    with_other_loss: Callable[[type], type] | None = None,
) -> Log:
    """Train what is trainable in `model` by TRL's RewardTrainer. Returns the log.

    rows: `chosen_ids` and `rejected_ids`, and perhaps CARRIED. with_other_loss: makes a trainer of TRL's that has another loss.
    """
    import trl  # late, because importing it takes seconds, and most stages do not need it

    return training.fit(
        with_other_loss(trl.RewardTrainer) if with_other_loss else trl.RewardTrainer,
        trl.RewardConfig,
        model,
        rows,
        [max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows],
        arguments={"max_length": None, "activation_checkpointing": False},
        processing_class=tokenizer,
    )


def doubt(pair: Comparison) -> float:
    """The probability that the rejected completion is better after all, by the labeler."""
    confidence = pair.confidence if pair.confidence is not None else 0.5 if pair.tie else 1.0
    return 1.0 - confidence


def _soft(trainer_class: type) -> type:
    """The trainer with the loss for probabilities. TRL's collator hands on one number for each row, `margin`, which carries the doubt."""

    class SoftTrainer(trainer_class):  # type: ignore[misc, valid-type]
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            doubts = inputs.pop(CARRIED)
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
            chosen, rejected = torch.chunk(outputs.logits.squeeze(-1), chunks=2)
            loss = loss + (doubts * (chosen - rejected)).mean()
            return (loss, outputs) if return_outputs else loss

    return SoftTrainer


def normalize_on_reference(scorer: Scorer, records: Sequence[ResponseRecord]) -> None:
    """Scale the scores to mean 0 and standard deviation 1 on responses of the reference policy (`reference_responses`)."""
    tokenizer = scorer.backbone.tokenizer
    scorer.normalize_on([[*record.prompt_token_ids, *as_read(tokenizer, record.token_ids, record.finished)] for record in records])


def reference_responses(
    backbone: Backbone,
    prompts: Sequence[PromptRecord],
    num_samples: int,
    generation: GenerationConfig,
    checkpoints: Checkpoints,
    seed: int,
    reference: str = "sft",
) -> list[ResponseRecord]:
    """Fresh responses of the reference policy, from which scores get their zero and their unit.

    `num_samples` of the prompts get one response each. `seed` decides which prompts and which responses, so every round that passes the
    same seed uses the same ones. Raises UserError if there are fewer than two prompts.
    """
    chosen = draw(prompts, num_samples, seed)
    if len(chosen) < 2:
        raise UserError("one training prompt is too few: scores have no standard deviation", "the data", "give more prompts")
    tokenizer = backbone.tokenizer
    encoded = [EncodedPrompt(encode_prompt(tokenizer, r.prompt), r.prompt, r.prompt_id, r.source) for r in chosen]
    seeds = [derive_seed(seed, record.prompt_id) for record in chosen]
    ids = [prompt.token_ids for prompt in encoded]
    return make_records(tokenizer, encoded, generate_sharded(backbone, reference, ids, seeds, generation, checkpoints, "normalization"))


def measure_scores(scorer: Scorer, samples: Sequence[Sample]) -> Measurement:
    """Return the score of every sample as a measurement; samples of one prompt belong together."""
    return Measurement(scorer.score_samples(samples), [sample.prompt_id for sample in samples])


def outcomes(chooser: Chooser, pairs: Sequence[Comparison]) -> Measurement:
    """Return one number for each pair that is no tie: 1 if the chosen completion scores higher, 0 if lower, 1/2 if both score the same.

    Every accuracy on comparisons that a stage reports is the mean of these numbers. Prompts that open alike belong together, as in the
    split into training and held-out prompts (`splits.py`).
    """
    decided = [pair for pair in pairs if not pair.tie]
    chosen = chooser([Answer(pair.prompt, pair.chosen, pair.chosen_finished) for pair in decided])
    rejected = chooser([Answer(pair.prompt, pair.rejected, pair.rejected_finished) for pair in decided])
    return Measurement(wins(chosen, rejected), [opening(pair.prompt) for pair in decided])
