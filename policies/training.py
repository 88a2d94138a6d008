"""Supervised training by TRL: the tiny embedded base from scratch, and the SFT adapter. Token ids in, weights out.

What all trainers share (determinism, quiet, data parallelism, progress) is `trainer_arguments` and `Progress`. Must never
know where the texts come from.
"""

import logging
import math
import random
import tempfile
from collections.abc import Callable, Iterable, Sequence
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from configs.errors import LoopError, UserError
from configs.schema import BaseConfig, TrainerSection
from configs.seeds import derive_seed
from policies import parallel
from policies.backbone import Backbone
from policies.base_folder import MAX_POSITIONS
from policies.checkpoints import Checkpoints
from policies.tokenization import encode_messages

OnProgress = Callable[[int, int], None]
"""(steps done, steps in all)."""

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% if m['role'] == 'assistant' %}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORDS = r" ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's pattern, but with marks (\\p{M}) inside words: it tears Thai vowels and tone marks off their consonants."""
TRAINED = "trained.safetensors"
PRETRAINING_BLOCK = 128


class Progress(transformers.TrainerCallback):
    """Tells `on_progress` after every step, and has the trainer save when a checkpoint is due."""

    def __init__(self, on_progress: OnProgress, checkpoints: Checkpoints):
        self.on_progress, self.checkpoints = on_progress, checkpoints

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_progress(state.global_step, state.max_steps)
        control.should_save = self.checkpoints.due()


class Resumable:
    """Mixed into a transformers trainer: its own checkpoints, atomic, and of the trainable parameters only.

    The base is frozen and never saved. transformers keeps optimiser, schedule, random state, position and log.
    """

    checkpoints: Checkpoints

    def fit(self: Any, checkpoints: Checkpoints) -> None:
        """Train, from the last checkpoint where there is one."""
        self.checkpoints = checkpoints
        self.remove_callback(transformers.PrinterCallback)
        newest = checkpoints.newest()
        self.train(resume_from_checkpoint=str(next(newest.glob("checkpoint-*"))) if newest else None)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL would write one into each checkpoint."""

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        with self.checkpoints.saving(self.state.global_step) as folder:
            self.args.output_dir = str(folder)
            super()._save_checkpoint(model, trial)  # type: ignore[misc]

    def _save(self: Any, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: p.detach().cpu() for name, p in self._trained()}, folder / TRAINED)

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        saved = load_file(Path(resume_from_checkpoint) / TRAINED)
        with torch.no_grad():
            for name, parameter in self._trained():
                parameter.copy_(saved[name])

    def _trained(self: Any) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]


class ResumableTrainer(Resumable, transformers.Trainer):
    """transformers' Trainer as it is used here."""


def training_order(lengths: Sequence[int], batch_size: int, num_batches: int, seed: int) -> list[int]:
    """Row numbers in the order in which they are trained on: `num_batches` full batches, one epoch after another.

    Each epoch has every row. Where the rows do not fill its last batch, some are in the epoch twice (more often where they do not
    fill one batch), drawn anew for each epoch. Rows of similar length share a batch, so that little is padding; batches
    come in random order. The order is laid down here, and not by a sampler of transformers, because theirs changes with
    the number of workers and the micro-batch.
    """
    order: list[int] = []
    for epoch in count():
        rng = random.Random(derive_seed(seed, "order", epoch))
        rows = rng.sample(range(len(lengths)), len(lengths))
        rows = list(islice(cycle(rows), batches_per_epoch(len(rows), batch_size) * batch_size))
        rows.sort(key=lambda row: lengths[row])  # stable: rows of one length stay shuffled
        batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        rng.shuffle(batches)
        order += [row for batch in batches for row in batch]
        if len(order) >= num_batches * batch_size:
            break
    return order[: num_batches * batch_size]


def batches_per_epoch(num_rows: int, batch_size: int) -> int:
    """As many as show every row."""
    return math.ceil(num_rows / batch_size)


def trainer_arguments(
    section: TrainerSection, seed: int, lengths: Sequence[int], num_batches: int | None = None
) -> tuple[list[int], dict[str, Any]]:
    """The order of the rows, and the arguments that every transformers trainer of this project gets.

    One global batch is `section.batch_size` rows, whatever the workers and the micro-batches. lengths: of all rows.
    num_batches: how many steps; None: `section.num_epochs`, of which a part that is no whole batch is trained whole.
    """
    if not lengths:
        raise UserError("there are no rows to train on", "the data that this stage is given", "give more data")
    if num_batches is None:
        exact = batches_per_epoch(len(lengths), section.batch_size) * section.num_epochs
        num_batches = max(1, math.ceil(exact - 1e-9))  # 10 x 1.1 is 11.000000000000002
    order = training_order(lengths, section.batch_size, num_batches, seed)
    per_worker = section.batch_size // parallel.world_size()
    micro = min(section.micro_batch_size or per_worker, per_worker)
    while per_worker % micro:
        micro -= 1
    return order, {
        "output_dir": tempfile.gettempdir(),  # nothing is written there: `Resumable` says where to save
        "learning_rate": section.learning_rate,
        "num_train_epochs": 1,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": per_worker // micro,
        "warmup_steps": section.warmup_ratio,
        "lr_scheduler_type": "linear",
        "max_grad_norm": 1.0,
        "seed": seed % 2**31,
        "dataloader_drop_last": True,
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "use_cpu": not torch.cuda.is_available(),
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "logging_strategy": "steps",
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "bf16": False,
    }


def quiet() -> None:
    """No third-party chatter: what matters is in metrics and the journal."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    logging.getLogger("trl").setLevel(logging.ERROR)


def logged(trainer: Any, loss: str = "loss", *others: str) -> list[dict[str, float]]:
    """The trainer's log by step, without clock times, so that it is the same in every run.

    Raises LoopError where a loss is not finite: what was trained is worth nothing.
    """
    names = ("step", loss, *others)
    rows = [{name: row[name] for name in names if name in row} for row in trainer.state.log_history if loss in row]
    for row in rows:
        if not math.isfinite(row[loss]):
            raise LoopError(f"the loss is {row[loss]} at step {row['step']}: lower the stage's learning_rate, or look at its data")
    return rows


def final_loss(log: Sequence[dict[str, float]]) -> float:
    """The mean of the last five steps' losses."""
    last = [row["loss"] for row in log[-5:]]
    return sum(last) / len(last)


def train_sft(
    backbone: Backbone,
    adapter: str,
    examples: Sequence[tuple[Sequence[int], Sequence[int]]],
    section: TrainerSection,
    checkpoints: Checkpoints,
    seed: int,
    on_progress: OnProgress,
) -> list[dict[str, float]]:
    """Fit `adapter` to (prompt ids, completion ids); the loss is on the completion only. Returns the log."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    class Trainer(Resumable, SFTTrainer):
        pass

    rows = [{"input_ids": [*p, *c], "labels": [-100] * len(p) + list(c)} for p, c in examples]
    order, arguments = trainer_arguments(section, seed, [len(row["input_ids"]) for row in rows])
    with backbone.role(adapter, train=True):
        trainer = Trainer(
            model=backbone.causal_lm,
            args=SFTConfig(**arguments, max_length=None, activation_checkpointing=False),
            train_dataset=Dataset.from_list(rows).select(order),
            processing_class=backbone.tokenizer,
            callbacks=[Progress(on_progress, checkpoints)],
        )
        trainer.fit(checkpoints)
    return logged(trainer, "loss")


# -- the embedded base --------------------------------------------------------------------------------------------------


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Any:
    """Byte-level BPE with a pad token of its own and a chat template of four special tokens."""
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=vocabulary_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=special[2:],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def train_tiny_base(
    dialogues: Sequence[tuple[Sequence[dict[str, str]], str]],
    config: BaseConfig,
    output: Path,
    checkpoints: Checkpoints,
    seed: int,
    on_progress: OnProgress,
) -> list[dict[str, float]]:
    """Tokenizer and a small Llama from scratch on (messages, answer), saved to `output` as `from_pretrained` reads it.

    Plain language modelling on full blocks, so transformers' own Trainer: SFTTrainer would also measure entropies.
    """
    from datasets import Dataset

    texts = [text for messages, answer in dialogues for text in (*(m["content"] for m in messages), answer)]
    tokenizer = train_tokenizer(texts, config.vocabulary_size)
    stream: list[int] = []
    for messages, answer in dialogues:
        whole = [*messages, {"role": "assistant", "content": answer}]
        stream += encode_messages(tokenizer, whole)
    blocks = [stream[i : i + PRETRAINING_BLOCK] for i in range(0, len(stream) - PRETRAINING_BLOCK, PRETRAINING_BLOCK)]
    torch.manual_seed(seed % 2**31)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.hidden_size * 3,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    section = TrainerSection(
        learning_rate=config.pretraining_learning_rate,
        batch_size=config.pretraining_batch_size,
    )
    order, arguments = trainer_arguments(section, seed, [PRETRAINING_BLOCK] * len(blocks), config.pretraining_steps)
    arguments |= {"lr_scheduler_type": "cosine"}
    trainer = ResumableTrainer(
        model=model,
        args=transformers.TrainingArguments(**arguments),
        train_dataset=Dataset.from_dict({"input_ids": blocks, "labels": blocks}).select(order),
        callbacks=[Progress(on_progress, checkpoints)],
    )
    trainer.fit(checkpoints)
    if parallel.is_main():
        model.save_pretrained(output)
        tokenizer.save_pretrained(output)
    return logged(trainer, "loss")
