"""Prompts, responses to them, and batches of both that can be run under any adapter.

Letters: B batch, P prompt tokens, R response tokens, M real response tokens of a batch (row after row), H hidden.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch

from policies import parallel
from policies.backbone import Backbone
from policies.fast.batches import Batch
from policies.fast.entropies import token_entropies
from policies.fast.logprobs import token_logprobs
from policies.tokenization import Prompt, as_read, decode_completion


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as token ids, ready for the model to answer, with the text and the origin that score functions may ask for."""

    token_ids: Sequence[int]
    prompt: Prompt = ""
    prompt_id: str = ""
    source: str = ""


@dataclass
class Trace:
    """What sampling computed for one response, kept so that PPO need not compute it again."""

    logprobs: torch.Tensor  # [R], at the sampling temperature, before top-k and top-p
    entropies: torch.Tensor  # [R], nats
    states: torch.Tensor  # [R, H]: the hidden states that predicted the tokens
    start_states: torch.Tensor | None  # [P + R, H]: what entered the backbone's `start_layer`, if it has one


@dataclass
class Response:
    """One sampled response. It is `finished` if it ends with an end token, which is the last of `token_ids`, or in a stop string."""

    token_ids: list[int]
    finished: bool
    trace: Trace | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class ResponseRecord:
    """A response as a score function gets it: as text and as token ids, with its prompt and where the prompt comes from."""

    prompt: Prompt
    """Plain text, or messages of `role` and `content`."""
    finished: bool
    """Whether the response ended with an end token or in a stop string, and not at the length limit."""
    prompt_id: str
    source: str
    """The data set, or the part of it, that the prompt comes from."""
    prompt_token_ids: Sequence[int]
    token_ids: Sequence[int]
    """The response's tokens as they were sampled, with the end token if it ended with one."""
    tokenizer: Any = field(compare=False, repr=False)
    trace: Trace | None = field(default=None, compare=False, repr=False)
    """What sampling kept; reward models on the same backbone use it to save time."""

    @cached_property
    def completion(self) -> str:
        """The text of the response, without its end token. Decoded when it is first asked for: PPO itself never needs it."""
        return decode_completion(self.tokenizer, self.token_ids)


ScoreFunction = Callable[[Sequence[ResponseRecord]], torch.Tensor | Sequence[float]]
"""Gives each of B responses a score, as a tensor [B] or as a list of numbers. PPO maximizes it."""


def make_records(tokenizer: Any, prompts: Sequence[EncodedPrompt], responses: Sequence[Response]) -> list[ResponseRecord]:
    """Pair prompts with their responses."""
    return [
        ResponseRecord(
            prompt=prompt.prompt,
            finished=response.finished,
            prompt_id=prompt.prompt_id,
            source=prompt.source,
            prompt_token_ids=prompt.token_ids,
            token_ids=response.token_ids,
            tokenizer=tokenizer,
            trace=response.trace,
        )
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def kept_start_states(records: Sequence[Response | ResponseRecord]) -> list[torch.Tensor] | None:
    """Return the start states that sampling kept, if it kept them for all responses."""
    kept = [record.trace.start_states for record in records if record.trace and record.trace.start_states is not None]
    return kept if kept and len(kept) == len(records) else None


class WholeSequence(NamedTuple):
    """A prompt and its completion as one sequence, for a scorer."""

    token_ids: Sequence[int]
    start_states: torch.Tensor | None = None  # [tokens, H]: what sampling kept (see `Trace`)


def as_judged(tokenizer: Any, records: Sequence[ResponseRecord]) -> list[WholeSequence]:
    """Return each response with its prompt as one sequence, in the form in which it is judged (see `as_read`).

    A reward model is trained on texts, so it must be asked about texts too. If the text of one response reads differently from its
    tokens, no sequence keeps its start states.
    """
    sequences = [[*record.prompt_token_ids, *as_read(tokenizer, record.token_ids, record.finished)] for record in records]
    as_sampled = sequences == [[*record.prompt_token_ids, *record.token_ids] for record in records]
    kept = kept_start_states(records) if as_sampled else None
    return [WholeSequence(ids, kept[i] if kept else None) for i, ids in enumerate(sequences)]


def mean_entropy(records: Sequence[ResponseRecord]) -> float:
    """Return the mean entropy of the sampling distribution, in nats per token of all workers' responses."""
    entropies = torch.cat([record.trace.entropies for record in records if record.trace])
    sums = parallel.all_sum(torch.stack([entropies.sum(), entropies.new_tensor(len(entropies))]))
    return (sums[0] / sums[1]).item()


@dataclass
class ResponseBatch:
    """Prompts with their responses as one batch, to be run under one adapter after another."""

    backbone: Backbone
    batch: Batch
    temperature: float = 1.0
    """Divides the logits, as it did in sampling (arXiv 2403.17031, section 7)."""
    start_rows: Sequence[torch.Tensor] | None = None
    """What enters the backbone's `start_layer`, [P_i + R_i, H] of each row, if it is known. Passes then start there."""

    @classmethod
    def from_ids(
        cls,
        backbone: Backbone,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        temperature: float = 1.0,
        start_rows: Sequence[torch.Tensor] | None = None,
    ) -> "ResponseBatch":
        """Make a batch of the token ids of prompts and responses."""
        return cls(backbone, backbone.pad(prompts, responses), temperature, start_rows)

    @classmethod
    def from_records(cls, backbone: Backbone, records: Sequence[ResponseRecord], temperature: float = 1.0) -> "ResponseBatch":
        """Make a batch of sampled responses. Passes start from the states that sampling kept."""
        prompts, responses = [record.prompt_token_ids for record in records], [record.token_ids for record in records]
        return cls.from_ids(backbone, prompts, responses, temperature, kept_start_states(records))

    @classmethod
    def from_sequences(cls, backbone: Backbone, sequences: Sequence[WholeSequence]) -> "ResponseBatch":
        """Make a batch of whole sequences. It does not know which tokens are the prompt's, so only `final_states` makes sense."""
        kept = [sequence.start_states for sequence in sequences if sequence.start_states is not None]
        ids = [sequence.token_ids for sequence in sequences]
        return cls.from_ids(backbone, [[]] * len(ids), ids, start_rows=kept if len(kept) == len(ids) else None)

    def __len__(self) -> int:
        return len(self.batch.input_ids)

    @property
    def mask(self) -> torch.Tensor:
        """[B, R]: True for the tokens of the responses."""
        return self.batch.response_mask

    def rows(self, rows: Sequence[int]) -> "ResponseBatch":
        """Return a batch of some of the rows."""
        batch = self.batch.rows(torch.tensor(rows, device=self.backbone.device))
        return replace(self, batch=batch, start_rows=None if self.start_rows is None else [self.start_rows[i] for i in rows])

    # -- one pass under the present role ------------------------------------------------------------------------------

    def states(self) -> torch.Tensor:
        """Return the hidden states that predict the response tokens, [M, H]."""
        unpadded = self.batch.unpadded_but_last
        return self.backbone.hidden_states(self.batch, self._start_states, only=unpadded.predictors, unpadded=unpadded)

    def final_states(self) -> torch.Tensor:
        """Return the hidden state at the last token of each row, [B, H]."""
        return self.backbone.hidden_states(self.batch, self._start_states, only=self.batch.unpadded.last)

    def logprobs(self, states: torch.Tensor) -> torch.Tensor:
        """Return the log-probs [B, R] of the response tokens, predicted from `states` [M, H]. Masked places are 0."""
        return self.on_grid(token_logprobs(self.backbone.fast, states, self.batch.response_ids, self.temperature))

    def entropies(self, states: torch.Tensor) -> torch.Tensor:
        """Return the entropies [B, R] of the distributions that `states` [M, H] predict, in nats. Masked places are 0."""
        return self.on_grid(token_entropies(self.backbone.fast, states, self.temperature))

    def as_sampled(self, records: Sequence[ResponseRecord]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the states [M, H] and log-probs [B, R] that sampling kept for the records of this batch, instead of a pass."""
        traces = [record.trace for record in records if record.trace]
        return torch.cat([trace.states for trace in traces]), self.on_grid(torch.cat([trace.logprobs for trace in traces]))

    def on_grid(self, values: torch.Tensor) -> torch.Tensor:
        """Lay out one value for each response token, [M] -> [B, R]. Masked places are 0."""
        return torch.zeros(self.mask.shape, dtype=values.dtype, device=values.device).masked_scatter(self.mask, values)

    @cached_property
    def _start_states(self) -> torch.Tensor | None:
        return None if self.start_rows is None else torch.cat(list(self.start_rows))

    # -- a pass under an adapter, without gradients -------------------------------------------------------------------

    @torch.no_grad()
    def under(self, adapter: str | None, rows_at_a_time: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the states [M, H] and log-probs [B, R] of the response tokens under an adapter (None: the bare base).

        rows_at_a_time: limits the memory that a pass needs.
        """
        states, logprobs = [], []
        size = rows_at_a_time or len(self)
        with self.backbone.role(adapter):
            for start in range(0, len(self), size):
                part = self.rows(range(start, min(start + size, len(self))))
                states.append(part.states())
                logprobs.append(part.logprobs(states[-1])[part.mask])
        return torch.cat(states), self.on_grid(torch.cat(logprobs))
