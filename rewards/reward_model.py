"""The reward model: Bradley-Terry on comparisons by TRL's RewardTrainer, over the shared base, normalised before use.

    loss = -log sigmoid(r(chosen) - r(rejected))        (arXiv 2009.01325, equation 1)

An artifact is a PEFT folder with head, and `normalization.json`: mean 0, std 1 on samples of the reference policy, so that
the KL coefficient means the same in every round (arXiv 1909.08593, section 2.2).
"""

import math
from collections.abc import Sequence

import torch

from configs.schema import RewardConfig
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.supervised import OnProgress, Progress, Resumable, logged, trainer_arguments
from rewards.comparisons import Comparison
from rewards.scoring import Scorer, ScoringModel, encode_pair


def encode_comparison(backbone: Backbone, pair: Comparison) -> tuple[list[int], list[int]]:
    """Token ids of (chosen, rejected), prompt included."""
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
    on_progress: OnProgress,
    head: torch.Tensor | None = None,
) -> tuple[Scorer, list[dict[str, float]]]:
    """Fit `adapter`, which must exist, and `head` [1, H] (None: a new one). Returns the scorer, not yet normalised, and TRL's log."""
    import trl
    from datasets import Dataset

    class Trainer(Resumable, trl.RewardTrainer):
        pass

    rows = []
    for pair in pairs:
        chosen, rejected = encode_comparison(backbone, pair)
        rows.append({"chosen_ids": chosen, "rejected_ids": rejected})
    lengths = [max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows]
    order, arguments = trainer_arguments(config, seed, lengths)
    with backbone.role(adapter, train=True):
        model = ScoringModel(backbone, seed, head)
        trainer = Trainer(
            model=model,
            args=trl.RewardConfig(**arguments, max_length=None, activation_checkpointing=False),
            train_dataset=Dataset.from_list(rows).select(order),
            processing_class=backbone.tokenizer,
            callbacks=[Progress(on_progress, checkpoints)],
        )
        trainer.fit(checkpoints)
    return Scorer(backbone, adapter, model.score.weight.detach()), logged(trainer, "loss", "accuracy", "margin")


def accuracy(scorer: Scorer, pairs: Sequence[Comparison]) -> dict[str, float | int | None]:
    """Share of pairs whose chosen completion scores higher (a tie of scores is half), with its standard error."""
    decided = [pair for pair in pairs if not pair.tie]
    encoded = [encode_comparison(scorer.backbone, pair) for pair in decided]
    chosen = scorer.score([c for c, _ in encoded])
    rejected = scorer.score([r for _, r in encoded])
    right = (chosen > rejected).double() + 0.5 * (chosen == rejected).double()
    return share(right)


def share(right: torch.Tensor) -> dict[str, float | int | None]:
    """Mean of per-item outcomes in [0, 1], its binomial standard error, and how many there are; None where there are none."""
    if not len(right):
        return {"accuracy": None, "standard_error": None, "pairs": 0}
    mean = right.mean().item()
    return {"accuracy": mean, "standard_error": math.sqrt(mean * (1 - mean) / len(right)), "pairs": len(right)}


def shorter_wins(backbone: Backbone, pairs: Sequence[Comparison]) -> dict[str, float | int | None]:
    """The accuracy of "the shorter completion wins" (in characters), the baseline to stand beside."""
    decided = [pair for pair in pairs if not pair.tie]
    lengths = [(len(pair.chosen), len(pair.rejected)) for pair in decided]
    return share(torch.tensor([float(c < r) + 0.5 * (c == r) for c, r in lengths]).double())
