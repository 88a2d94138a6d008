"""Supervised fine-tuning (SFT) of an adapter on prompts and completions, by TRL's SFTTrainer."""

from collections.abc import Sequence

from configs.schema import TrainerSection
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.reporting import Report
from policies.training import Log, Training

IGNORED = -100
"""The label of tokens without a loss."""


def train_sft(
    backbone: Backbone,
    adapter: str,
    examples: Sequence[tuple[Sequence[int], Sequence[int]]],
    section: TrainerSection,
    checkpoints: Checkpoints,
    seed: int,
    report: Report,
) -> Log:
    """Train `adapter` on pairs of prompt ids and completion ids. The loss is on the completion only. Returns the log."""
    import trl  # late, because importing it takes seconds, and most stages do not need it

    rows = [{"input_ids": [*prompt, *completion], "labels": [IGNORED] * len(prompt) + list(completion)} for prompt, completion in examples]
    with backbone.role(adapter, train=True):
        return Training(section, checkpoints, seed, report).fit(
            trl.SFTTrainer,
            trl.SFTConfig,
            backbone.causal_lm,
            rows,
            [len(row["input_ids"]) for row in rows],
            arguments={"max_length": None, "activation_checkpointing": False},
            processing_class=backbone.tokenizer,
        )
