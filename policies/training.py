"""The frame of every training on given rows: SFT, DPO, the tiny base, the reward model and the selector.

    log = Training(section, checkpoints, seed, report).fit(trl.SFTTrainer, trl.SFTConfig, model, rows, lengths)

The trainers are those of TRL and transformers. The frame decides the order of the rows and the arguments that all trainers share. It
reports progress, saves checkpoints, and resumes from them. It does not know where the rows come from.
"""

import logging
import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from safetensors.torch import load_file, save_file

from configs.errors import LoopError, UserError
from configs.schema import TrainerSection
from configs.seeds import derive_seed
from policies import parallel
from policies.checkpoints import Checkpoints
from policies.reporting import Report

Log = list[dict[str, float]]
"""Step and losses of each step."""
TRAINED = "trained.safetensors"
LOGGED = ("step", "loss", "accuracy", "margin", "rewards/accuracies", "rewards/margins")
"""What is kept of a trainer's log. Clock times are left out, so the log is the same in every run."""
LAST_STEPS = 5
"""`final` takes the mean over this many steps."""


@dataclass(frozen=True)
class Training:
    """One supervised training: its settings, its seed, where it keeps its progress, and to whom it reports."""

    section: TrainerSection
    checkpoints: Checkpoints
    seed: int
    report: Report
    num_batches: int | None = None
    """Number of optimizer steps; None means `section.num_epochs`."""

    def fit(
        self,
        trainer_class: type,
        arguments_class: type,
        model: Any,
        rows: Sequence[dict[str, Any]],
        lengths: Sequence[int],
        arguments: dict[str, Any] | None = None,
        **parts: Any,
    ) -> Log:
        """Train what is trainable in `model` on `rows`, starting from the last checkpoint. Returns the log.

        lengths: the number of tokens of each row. arguments: changes to the shared arguments. parts: more arguments of the trainer itself.
        Raises LoopError if a loss is not finite.
        """
        order, shared = self.order_and_arguments(lengths)
        # The frozen weights are the same on all workers, so DistributedDataParallel need not send them.
        model._ddp_params_and_buffers_to_ignore = [name for name, p in model.named_parameters() if not p.requires_grad]
        parallel.barrier()  # from here on, all workers do the same steps, and the trainers' own sums find them in the same place
        trainer = _resumable(trainer_class)(
            model=model,
            args=arguments_class(**shared | (arguments or {})),
            train_dataset=Dataset.from_list(list(rows)).select(order),
            callbacks=[Progress(self.report, self.checkpoints)],
            **parts,
        )
        trainer.fit(self.checkpoints)
        return _logged(trainer)

    def order_and_arguments(self, lengths: Sequence[int]) -> tuple[list[int], dict[str, Any]]:
        """Return the order of the rows, and the arguments that every trainer gets.

        A batch is `section.batch_size` rows, for any number of workers and any micro-batch. A part of an epoch that is no whole batch is
        trained as a whole one. Raises UserError if there are no rows.
        """
        if not lengths:
            raise UserError("there are no rows to train on", "the data that this stage is given", "give more data")
        section, num_batches = self.section, self.num_batches
        if num_batches is None:
            exact = batches_per_epoch(len(lengths), section.batch_size) * section.num_epochs
            num_batches = max(1, math.ceil(exact - 1e-9))  # 10 x 1.1 is 11.000000000000002
        order = training_order(lengths, section.batch_size, num_batches, self.seed)
        per_worker = section.batch_size // parallel.world_size()
        micro_batch = min(section.micro_batch_size or per_worker, per_worker)
        while per_worker % micro_batch:
            micro_batch -= 1
        return order, {
            "output_dir": tempfile.gettempdir(),  # nothing is written there: `Resumable` decides where to save
            "learning_rate": section.learning_rate,
            "num_train_epochs": 1,
            "per_device_train_batch_size": micro_batch,
            "gradient_accumulation_steps": per_worker // micro_batch,
            "warmup_steps": math.ceil(num_batches * section.warmup_ratio),  # a ratio of 1 would be taken for one step
            "lr_scheduler_type": "linear",
            "max_grad_norm": 1.0,
            "seed": self.seed % 2**31,
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


def training_order(lengths: Sequence[int], batch_size: int, num_batches: int, seed: int) -> list[int]:
    """Return row numbers in the order of training: `num_batches` full batches, one epoch after another.

    Each epoch has every row. If the rows do not fill its last batch, some are in the epoch twice, and more often if they do not fill one
    batch. They are drawn anew for each epoch. Rows of similar length share a batch, so there is little padding. Batches come in random
    order. The order is decided here and not by a sampler of transformers, because theirs depends on the number of workers and the
    micro-batch.
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
    """Return the smallest number of batches that contain every row."""
    return math.ceil(num_rows / batch_size)


def final_loss(log: Log) -> float:
    """Return the mean loss of the last steps."""
    return final(log, "loss")


def final(log: Log, name: str) -> float:
    """Return the mean of a logged number over the last steps."""
    last = [row[name] for row in log[-LAST_STEPS:]]
    return sum(last) / len(last)


def quiet() -> None:
    """Silence third-party messages. What matters is in the metrics and in the journal."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    logging.getLogger("trl").setLevel(logging.ERROR)


class Progress(transformers.TrainerCallback):
    """Reports every step with the newest losses, and has the trainer save if a checkpoint is due."""

    def __init__(self, report: Report, checkpoints: Checkpoints):
        self.report, self.checkpoints = report, checkpoints
        self.losses: dict[str, float] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Called by the trainer with the losses of a step, after `on_step_end`."""
        self.losses = {name: logs[name] for name in LOGGED if logs and name in logs}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer after each optimizer step."""
        self.report(state.global_step, state.max_steps, self.losses)
        control.should_save = self.checkpoints.due()


class Resumable:
    """Mixed into a trainer of transformers. Its checkpoints are atomic, and contain only the trainable parameters.

    The base is frozen and never saved. transformers saves the optimizer, the schedule, the random state, the position and the log.
    """

    checkpoints: Checkpoints

    def fit(self: Any, checkpoints: Checkpoints) -> None:
        """Train, starting from the last checkpoint."""
        self.checkpoints = checkpoints
        self.remove_callback(transformers.PrinterCallback)
        newest = checkpoints.newest()
        self.train(resume_from_checkpoint=str(next(newest.glob("checkpoint-*"))) if newest else None)

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0. transformers would look at every parameter after every step, to count something that nobody reads."""
        return 0

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing. TRL would write a card into each checkpoint."""

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


def _resumable(trainer_class: type) -> type:
    """Return the trainer class with `Resumable` mixed in."""
    return type(f"Resumable{trainer_class.__name__}", (Resumable, trainer_class), {})


def _logged(trainer: Any) -> Log:
    """Return what `LOGGED` names of the trainer's log. Raises LoopError if a loss is not finite."""
    rows = [{name: row[name] for name in LOGGED if name in row} for row in trainer.state.log_history if "loss" in row]
    for row in rows:
        if not math.isfinite(row["loss"]):
            raise LoopError(f"the loss is {row['loss']} at step {row['step']}: lower the stage's learning_rate, or look at its data")
    return rows
