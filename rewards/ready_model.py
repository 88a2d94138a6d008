"""A reward model that this run did not make (`labeler.model`): loaded by transformers, and asked for scores.

An answer is read in the form that the model knows:

    a reward model of a run             the form in which runs train and judge (`encode_pair`)
    a tokenizer with a chat template    the dialogue with the answer as its last turn, as the template writes it. The template ends the turn
                                        even of an answer that was cut off
    a model with an encoder (BERT, T5)  two texts, the prompt and the answer, as the tokenizer joins them
    anything else                       as a reward model of a run

Scores are the model's numbers as they are. A text is never cut: where it is too long for the model, there is no score. Only answers of one
length are scored together, so nothing is padded, and it does not matter what a model takes for padding. Weights come from safetensors only.
The model's own code runs only with `labeler.trust_remote_code`.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from configs.errors import UserError
from configs.judging import LabelerConfig
from policies.adapters import put_adapter
from policies.base_folder import max_positions
from policies.loading import first_line, hub_cannot_be_reached
from policies.tokenization import HH_NAMES, DialogueRefused, Prompt, encode_messages
from rewards.comparisons import Answer, Sample
from rewards.ready_folders import ReadyModel, check_one_label, check_ready_model, find_model, is_of_head
from rewards.scoring import encode_pair

MAX_ROWS = 64
NOT_PADDING = -1
"""A number that no token has. Models look for the last token that is no padding, and here all of them are none."""
SETTING = "labeler.model={}"

Encoded = Mapping[str, list[int]]


class ReadyRewardModel:
    """Gives the scores of a model for sequence classification with one label."""

    def __init__(self, model: Any, tokenizer: Any, name: str, is_of_a_run: bool = False, tokens_per_batch: int = 16384):
        """name: what the user calls it, for messages."""
        self._model, self._tokenizer, self._name = model, tokenizer, name
        self._is_of_a_run, self._tokens_per_batch = is_of_a_run, tokens_per_batch
        self._has_encoder = model.config.is_encoder_decoder or bool(tokenizer.cls_token and tokenizer.sep_token)
        self.window = _window(model, tokenizer)
        """The most tokens that it reads."""

    @classmethod
    def load(cls, config: LabelerConfig, tokens_per_batch: int, commit: str | None = None) -> "ReadyRewardModel":
        """Load the model that the config names. Raises UserError if it cannot give scores. commit: of the hub, in place of the revision."""
        name = str(config.model)
        check_ready_model(config, SETTING.format(name))
        found = find_model(config)
        assert found is not None
        options = {"revision": commit or found.revision, "trust_remote_code": config.trust_remote_code}
        model = _load_model(found, config, options)
        tokenizer_options = options if found.tokenizer == found.model else {"trust_remote_code": config.trust_remote_code}
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(found.tokenizer, **tokenizer_options)
        except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
            raise _cannot_load("tokenizer of the reward model", name, error) from None
        return cls(model, tokenizer, name, found.is_of_a_run, tokens_per_batch)

    def release(self) -> None:
        """Free the model."""
        self._model = None

    def score_samples(self, samples: Sequence[Sample]) -> list[float]:
        """Return the scores of samples, as `score_answers` does."""
        return self.score_answers([Answer(sample.prompt, sample.completion, sample.finished) for sample in samples])

    @torch.no_grad()
    def score_answers(self, answers: Sequence[Answer]) -> list[float]:
        """Return the scores of texts, and NaN for one that is too long for the model. Raises UserError if a score is no number."""
        encoded = [self._encode(answer) for answer in answers]
        lengths = [len(one["input_ids"]) for one in encoded]
        readable = sorted((row for row, length in enumerate(lengths) if length <= self.window), key=lengths.__getitem__)
        scores = [math.nan] * len(answers)
        for length, group in groupby(readable, key=lengths.__getitem__):
            rows = list(group)
            size = max(1, min(MAX_ROWS, self._tokens_per_batch // length))
            for batch in (rows[start : start + size] for start in range(0, len(rows), size)):
                names = encoded[batch[0]]
                inputs = {name: torch.tensor([encoded[row][name] for row in batch], device=self._model.device) for name in names}
                for row, score in zip(batch, self._model(**inputs).logits[:, 0].float().tolist(), strict=True):
                    scores[row] = score
        if not all(math.isfinite(scores[row]) for row in readable):
            raise UserError("a score of the reward model is not a number", SETTING.format(self._name), "set labeler.dtype=float32")
        return scores

    def can_read(self, answer: Answer) -> bool:
        """Whether an answer with its prompt is short enough for the model."""
        return len(self._encode(answer)["input_ids"]) <= self.window

    def _encode(self, answer: Answer) -> Encoded:
        """What the model reads. Special tokens inside an answer are plain text. Raises UserError if there is no token at all."""
        prompt, tokenizer = answer.prompt, self._tokenizer
        found: Mapping[str, Any]
        if self._is_of_a_run or not (tokenizer.chat_template or self._has_encoder):
            ids = encode_pair(tokenizer, prompt, answer.completion, answer.finished and tokenizer.eos_token_id is not None)
            found = {"input_ids": ids}
        elif tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
            found = {"input_ids": self._written([*turns, {"role": "assistant", "content": answer.completion}])}
        else:
            found = tokenizer(_as_text(prompt), answer.completion, split_special_tokens=True)
        if not found["input_ids"]:
            what = "a prompt and its answer have no token for the reward model"
            raise UserError(what, SETTING.format(self._name), "choose another model")
        return {name: found[name] for name in ("input_ids", "token_type_ids") if name in found}

    def _written(self, turns: list[dict[str, str]]) -> list[int]:
        try:
            return encode_messages(self._tokenizer, turns)
        except DialogueRefused as error:
            what = f"the chat template of the reward model cannot write a dialogue of the run: {error}"
            raise UserError(what, SETTING.format(self._name), "choose a model whose template can, or leave such prompts out") from None


def _load_model(found: ReadyModel, config: LabelerConfig, options: dict[str, Any]) -> Any:
    """The model with its head, in eval mode on the device. Raises UserError if it has several labels, or lacks weights."""
    name = str(config.model)
    try:
        model_config = transformers.AutoConfig.from_pretrained(found.model, **options)
        if found.head:
            model_config.num_labels = 1  # the adapter brings the head
        check_one_label(model_config.num_labels, SETTING.format(name))
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            found.model,
            config=model_config,
            dtype=getattr(torch, config.dtype),
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported, as those that are missing
            **options,
        )
    except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
        raise _cannot_load("reward model", name, error) from None
    lacking = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    missing = sorted(key for key in lacking if not (found.head and is_of_head(key)))
    if missing:
        what = f"the reward model lacks weights, so its scores would be random: {missing[0]}"
        raise UserError(what, SETTING.format(name), "give a model that was trained for sequence classification with one label")
    text_config = model.config.get_text_config()
    if text_config.pad_token_id is None or found.is_of_a_run:
        text_config.pad_token_id = NOT_PADDING
    model = model.requires_grad_(False).eval()
    if found.adapter:
        model = _with_adapter(model, found)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _with_adapter(model: Any, found: ReadyModel) -> Any:
    assert found.adapter is not None
    try:
        return put_adapter(model, found.adapter)
    except (ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:  # what PEFT raises on names, shapes and settings
        what = f"the adapter does not fit the model {found.model}: {first_line(error)}"
        raise UserError(what, f"{found.adapter}", "give the adapter's own base as labeler.model") from None


def _window(model: Any, tokenizer: Any) -> int:
    """The most tokens that a model reads, as it and its tokenizer say.

    RoBERTa and models like it count positions from the one after their pad token's number, so they read fewer tokens than they have
    positions.
    """
    positions = max_positions(model.config.get_text_config().to_dict())
    learnt = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    first = next((module.padding_idx + 1 for module in learnt if getattr(module, "padding_idx", None) is not None), 0)
    return min(positions - first if positions else tokenizer.model_max_length, tokenizer.model_max_length)


def _as_text(prompt: Prompt) -> str:
    """The prompt as one text: its only message, or several in the form of HH."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{HH_NAMES.get(turn['role'], turn['role'])}: {turn['content']}" for turn in prompt)


def _cannot_load(what: str, name: str, error: Exception) -> UserError:
    where, to_do = SETTING.format(name), "give a model that AutoModelForSequenceClassification can load, with weights in safetensors"
    return hub_cannot_be_reached(what, where, error) or UserError(f"the {what} cannot be loaded: {first_line(error)}", where, to_do)
