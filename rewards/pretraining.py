"""Preference-model pretraining (PMP): a reward model learns from public votes before it learns from the run's own pairs.

    loss = -log sigmoid(r(better) - r(worse))  +  lm_coefficient x (mean of -log p(token) over the better answer)

The first part is that of every reward model (`reward_model.py`). The second one keeps the adapter a language model (arXiv 2112.00861,
section 4). `pmp.binarised` makes two comparisons of each pair, with a control word before the answer:

    good: better > bad: better        with the loss on the better answer
    bad: worse > good: worse          without it, so that nobody learns to write worse answers

The reward models that start from here are asked without control words. Letters: B comparisons, N real tokens of a batch, M tokens of
better answers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from configs.data import DataConfig
from configs.pretraining import PMPConfig
from configs.schema import RunConfig
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.fast.batches import Batch, Unpadded
from policies.fast.logprobs import token_logprobs
from policies.reporting import Report
from policies.tokenization import Prompt, encode_completion, encode_prompt
from policies.training import Log, Training
from rewards.comparisons import Comparison
from rewards.reward_model import CARRIED, fit_comparisons
from rewards.scoring import Scorer, ScoringModel

GOOD, BAD = "GOOD: ", "BAD: "
"""The control words."""


def as_data(config: RunConfig) -> DataConfig:
    """The sources of votes as the original data of a run, split and normalized as the run's own."""
    data, pmp = config.data, config.pmp
    return DataConfig(
        sources=pmp.sources,
        max_pairs=pmp.max_pairs,
        heldout_fraction=data.heldout_fraction,
        labeler_fraction=data.labeler_fraction,
        normalize=data.normalize and data.source != "embedded",
        bad_rows=data.bad_rows,
    )


def asked_as(pairs: Sequence[Comparison], like: Prompt) -> list[Comparison]:
    """The pairs with prompts of the form of the run's own: where these are messages, a question in plain text becomes a user's turn."""
    if isinstance(like, str):
        return list(pairs)
    return [replace(p, prompt=[{"role": "user", "content": p.prompt}]) if isinstance(p.prompt, str) else p for p in pairs]


def train_preference_model(
    backbone: Backbone,
    adapter: str,
    pairs: Sequence[Comparison],
    config: PMPConfig,
    checkpoints: Checkpoints,
    seed: int,
    report: Report,
) -> tuple[Scorer, Log]:
    """Train `adapter`, which must exist, and a new linear head on pairs without ties. Returns the scorer, not normalized, and the log."""
    rows = [row for pair in pairs for row in training_rows(backbone.tokenizer, pair, config.binarised)]
    with backbone.role(adapter, train=True):
        model = PretrainingModel(backbone, seed)
        training = Training(config, checkpoints, seed, report)
        log = fit_comparisons(training, model, rows, backbone.tokenizer, lambda trainer: _with_lm_loss(trainer, config.lm_coefficient))
    return Scorer(backbone, adapter, model.score.weight.detach()), log


def training_rows(tokenizer: Any, pair: Comparison, binarised: bool) -> Iterator[dict[str, Any]]:
    """The comparisons that one pair gives, as token ids. CARRIED is the number of tokens of the better side that have no loss of their
    own: those of the prompt and of a control word, or all of them."""
    prompt = encode_prompt(tokenizer, pair.prompt)
    chosen = encode_completion(tokenizer, pair.chosen, pair.chosen_finished)
    rejected = encode_completion(tokenizer, pair.rejected, pair.rejected_finished)
    if not binarised:
        yield {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected, CARRIED: len(prompt)}
        return
    good, bad = (prompt + word for word in control_ids(tokenizer))
    yield {"chosen_ids": good + chosen, "rejected_ids": bad + chosen, CARRIED: len(good)}
    yield {"chosen_ids": bad + rejected, "rejected_ids": good + rejected, CARRIED: len(bad + rejected)}


def control_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The token ids of GOOD and of BAD."""
    return encode_completion(tokenizer, GOOD, finished=False), encode_completion(tokenizer, BAD, finished=False)


class PretrainingModel(ScoringModel):
    """A scoring model that also says, in the same pass, how well it predicts the better answers."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> SequenceClassifierOutput:
        """[2B, T] -> logits [2B, 1], and as `loss` the language-modeling loss of the first B rows, which are the better ones.

        kwargs["without_loss"]: [B], the number of tokens at the beginning of each of these rows that have no loss.
        """
        backbone, without_loss = self._backbone[0], kwargs["without_loss"]
        batch = Batch.from_sequences(input_ids, attention_mask)
        last, answers = batch.unpadded.last, find_answers(batch.unpadded, without_loss)
        states = backbone.hidden_states(batch, only=torch.cat([last, answers.predictors]))
        pooled, predicting = states.split([len(last), len(answers.predictors)])
        logprobs = token_logprobs(backbone.fast, predicting, answers.tokens, temperature=1.0)
        loss = mean_loss(logprobs, answers.rows, len(without_loss))
        return SequenceClassifierOutput(loss=loss, logits=self.score(pooled.to(self.score.weight.dtype)))


class Answers(NamedTuple):
    """The tokens that have a loss. predictors: [M], the places of the tokens before them among the N. rows: [M], the row of each."""

    tokens: torch.Tensor
    predictors: torch.Tensor
    rows: torch.Tensor


def find_answers(unpadded: Unpadded, without_loss: torch.Tensor) -> Answers:
    """The tokens of the first B rows that come after the first `without_loss` [B] ones of their row."""
    lengths = torch.diff(unpadded.last, prepend=unpadded.last.new_tensor([-1]))
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    begins = torch.full_like(lengths, int(lengths.max()))  # the rows after the first B have no answers
    begins[: len(without_loss)] = without_loss.long()
    found = (unpadded.position_ids >= begins[rows]).nonzero()[:, 0]
    return Answers(unpadded.input_ids[found], found - 1, rows[found])


def mean_loss(logprobs: torch.Tensor, rows: torch.Tensor, num_rows: int) -> torch.Tensor:
    """The mean over the tokens of each row, and then over all rows. A row without tokens counts as 0.

    Unlike a mean over all tokens, it is the same for any number of workers and any micro-batch.
    """
    counts = torch.bincount(rows, minlength=num_rows)
    return -(logprobs / counts[rows]).sum() / num_rows


def _with_lm_loss(trainer_class: type, coefficient: float) -> type:
    """The trainer with the language-modeling loss added."""

    class PretrainingTrainer(trainer_class):  # type: ignore[misc, valid-type]
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            inputs["without_loss"] = inputs.pop(CARRIED)
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
            loss = loss + coefficient * outputs.loss
            return (loss, outputs) if return_outputs else loss

    return PretrainingTrainer
