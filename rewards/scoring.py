"""A scalar head on an adapter, which is the form that reward models and selectors share, and score functions made of them.

`ScoringModel` is trained by TRL and transformers; `Scorer` gives scores. The score is read at the last real token. The attention mask
tells which one that is, so it does not matter if the pad token is also the end token. Letters: B batch, T tokens, H hidden.
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from policies.adapters import load_head
from policies.backbone import Backbone
from policies.batching import batches_by_length
from policies.checkpoints import Checkpoints
from policies.fast.batches import Batch
from policies.reporting import Report
from policies.responses import ResponseBatch, ResponseRecord, ScoreFunction, WholeSequence, as_judged
from policies.tokenization import Prompt, encode_completion, encode_prompt
from rewards.comparisons import Answer, Sample

SMALLEST_STD = 1e-6
"""Scores that are all the same are divided by this number instead of by 0."""
SHARD = 512
"""Samples that one worker scores before it takes the next ones and saves what it has."""


class AnswerScorer(Protocol):
    """Whatever gives scores: a `Scorer`, or a model from elsewhere (ready_model.py). NaN stands for a text that it cannot read."""

    def score_answers(self, answers: Sequence[Answer]) -> list[float]: ...

    def score_samples(self, samples: Sequence[Sample]) -> list[float]: ...

    def release(self) -> None:
        """Free what it takes. It gives no scores after that."""


class ScoringModel(transformers.PreTrainedModel):
    """The shared decoder with a linear head: sequence classification with one label, for every decoder-only architecture."""

    config_class = transformers.PretrainedConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, backbone: Backbone, seed: int, head: torch.Tensor | None = None):
        """head: what the linear head [1, H] starts from; None means random numbers that `seed` decides."""
        config = deepcopy(backbone.causal_lm.config)
        config.num_labels = 1
        super().__init__(config)
        self.decoder = backbone.fast.decoder
        self._backbone = (backbone,)  # in a tuple, so its modules are not registered a second time
        self.score = nn.Linear(backbone.hidden_size, 1, bias=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            nn.init.normal_(self.score.weight, std=1.0 / (backbone.hidden_size + 1) ** 0.5)  # arXiv 2403.17031, section 6
        if head is not None:
            self.score.weight.data.copy_(head)
        self.score.to(backbone.device)
        self._trained = [parameter for parameter in self.parameters() if parameter.requires_grad]

    def train(self, mode: bool = True) -> "ScoringModel":
        """Like `nn.Module.train`, but free if nothing changes: transformers calls it before every step."""
        return self if self.training == mode and self.decoder.training == mode else super().train(mode)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the trained parameters, which are few."""
        for parameter in self._trained:
            parameter.grad = None

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> SequenceClassifierOutput:
        """[B, T] -> logits [B, 1]."""
        batch = Batch.from_sequences(input_ids, attention_mask)
        pooled = self._backbone[0].hidden_states(batch, only=batch.unpadded.last)
        return SequenceClassifierOutput(logits=self.score(pooled.to(self.score.weight.dtype)))


class Scorer:
    """A trained adapter with its head. It gives normalized scores: (raw - mean) / std."""

    def __init__(self, backbone: Backbone, adapter: str, head: torch.Tensor, mean: float = 0.0, std: float = 1.0):
        self.backbone, self.adapter = backbone, adapter
        self.head = head.to(backbone.device).float()
        self.mean, self.std = mean, std

    @classmethod
    def load(cls, backbone: Backbone, adapter: str, folder: Path) -> "Scorer":
        """Load what `save` has written, and call the adapter `adapter`."""
        backbone.add_adapter(adapter, folder=folder)
        scale = json.loads((folder / "normalization.json").read_text())
        return cls(backbone, adapter, load_head(folder), scale["mean"], scale["std"])

    def save(self, folder: Path) -> None:
        """Write a PEFT folder for sequence classification, with the mean and std of its scores."""
        self.backbone.save_adapter(self.adapter, folder, head=self.head)
        scale = {"mean": self.mean, "std": self.std}
        (folder / "normalization.json").write_text(json.dumps(scale, indent=2) + "\n")

    def normalize_on(self, sequences: Sequence[Sequence[int]]) -> None:
        """Set mean and std so that the scores of these sequences have mean 0 and standard deviation 1."""
        self.mean, self.std = 0.0, 1.0
        scores = self.score(sequences)
        self.mean, self.std = scores.mean().item(), max(scores.std().item(), SMALLEST_STD)

    @property
    def normalized_head(self) -> tuple[torch.Tensor, float]:
        """Weight [1, H] and bias of a linear layer that gives the normalized scores."""
        return self.head / self.std, -self.mean / self.std

    def score(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the normalized scores [B] of token ids, prompt and completion together, on the CPU."""
        return self.score_sequences([WholeSequence(ids) for ids in sequences])

    @torch.no_grad()
    def score_sequences(self, sequences: Sequence[WholeSequence]) -> torch.Tensor:
        """Return the normalized scores [B] of whole sequences, on the CPU."""
        lengths = [len(sequence.token_ids) for sequence in sequences]
        scores = torch.zeros(len(sequences))
        with self.backbone.role(self.adapter):
            for rows in batches_by_length(lengths, self.backbone.tokens_per_batch):
                batch = ResponseBatch.from_sequences(self.backbone, [sequences[i] for i in rows])
                scores[rows] = (batch.final_states().float() @ self.head.T)[:, 0].cpu()
        return (scores - self.mean) / self.std

    def score_answers(self, answers: Sequence[Answer]) -> list[float]:
        """Return the normalized scores of texts."""
        return self.score([encode_pair(self.backbone.tokenizer, *answer) for answer in answers]).tolist()

    def score_samples(self, samples: Sequence[Sample]) -> list[float]:
        """Return the normalized scores of samples."""
        return self.score_answers([Answer(sample.prompt, sample.completion, sample.finished) for sample in samples])

    def release(self) -> None:
        """Remove the adapter from the backbone."""
        self.backbone.delete_adapter(self.adapter)


def encode_pair(tokenizer: Any, prompt: Prompt, completion: str, finished: bool) -> list[int]:
    """Return prompt and completion as one sequence, the form in which every scorer is trained and asked."""
    return encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, completion, finished)


def score_in_shards(
    scorer: AnswerScorer, samples: Sequence[Sample], checkpoints: Checkpoints, report: Report, name: str = "scores"
) -> dict[str, float]:
    """Return the score of each sample by its id. All workers share the work, and finished shards survive a kill under `name`."""
    scores = checkpoints.in_shards(name, samples, SHARD, scorer.score_samples, lambda done, _: report(done, len(samples)))
    return dict(zip((sample.id for sample in samples), scores, strict=True))


def ensemble(scorers: Sequence[Scorer], kind: str) -> ScoreFunction:
    """Return the score function that PPO maximizes.

    scorers: the reward models of all rounds so far, the newest one last. kind: `last` uses the newest one only; `mean` and `min`
    combine the scores of all of them.
    """
    used = scorers[-1:] if kind == "last" else scorers

    def score(records: Sequence[ResponseRecord]) -> torch.Tensor:
        sequences = as_judged(used[0].backbone.tokenizer, records)
        scores = torch.stack([scorer.score_sequences(sequences) for scorer in used])
        return scores.min(0).values if kind == "min" else scores.mean(0)

    return score
