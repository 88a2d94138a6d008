"""The `model` selector: an adapter and a head that predict which of a prompt's candidates will be preferred.

    loss = - sum_i w_i log softmax(s)_i        over the candidates i of one prompt with scores s_i

w_i is the fraction of the wins that candidate i has (ListNet with wins as the target, Cao et al. 2007).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from configs.schema import SelectConfig
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.reporting import Report
from policies.training import Log, Training
from rewards.comparisons import CandidateGroup, write_jsonl
from rewards.scoring import Scorer, ScoringModel, encode_pair
from rewards.selectors.selector import Candidates, Selector, SelectTask, Tools, by_group

TRAINED, LOADED = "selector", "loaded-selector"
"""The adapters of a selector that was trained just now and of one that was loaded."""


@dataclass(frozen=True)
class ListwiseSelector(Selector):
    """Scores candidates by an adapter and a head. log: one row for each step of its training, if it was trained just now."""

    scorer: Scorer
    log: Sequence[dict[str, float]] = ()

    def score(self, groups: Sequence[Candidates]) -> list[list[float]]:
        """The head's outputs, which are logits within a group."""
        return by_group([group.answers for group in groups], self.scorer.score_answers)

    def save(self, folder: Path) -> None:
        """Write a PEFT folder, and the log of the training."""
        self.scorer.save(folder)
        write_jsonl(folder / "metrics.jsonl", self.log)


def fit(task: SelectTask) -> ListwiseSelector:
    """A trained selector. It starts from the SFT adapter, or from the task's reward model and its head."""
    backbone, reward = task.tools.backbone, task.tools.reward
    from_reward = task.config.init == "reward"
    backbone.add_adapter(TRAINED, copy_of=reward.adapter if from_reward else "sft")
    head = reward.head if from_reward else None
    scorer, log = train_selector(backbone, TRAINED, task.groups, task.config, task.checkpoints, task.seed, task.report, head)
    return ListwiseSelector(task.tools, scorer, log)


def load(folder: Path, tools: Tools) -> ListwiseSelector:
    """What `save` has written."""
    return ListwiseSelector(tools, Scorer.load(tools.backbone, LOADED, folder))


class ListwiseTrainer(transformers.Trainer):
    """transformers' Trainer with the listwise loss. Its batches come from `collate`."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Return the loss, and the scores if the Trainer asks for outputs."""
        logits = model(inputs["input_ids"], inputs["attention_mask"]).logits[:, 0]
        loss = listwise_loss(logits, inputs["group"], inputs["target"])
        return (loss, logits) if return_outputs else loss


def listwise_loss(scores: torch.Tensor, group: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean over groups of the cross-entropy between `target` and softmax(scores) within the group.

    All arguments are [N], one number for each candidate. group: the number of its group, counted from 0.
    """
    num_groups = int(group.max()) + 1
    grid = torch.full((num_groups, len(scores)), float("-inf"), device=scores.device, dtype=scores.dtype)
    columns = torch.arange(len(scores), device=scores.device)
    grid = grid.index_put((group, columns), scores)
    log_softmax = (scores - torch.logsumexp(grid, dim=1)[group]) * target
    return -log_softmax.sum() / num_groups


def train_selector(
    backbone: Backbone,
    adapter: str,
    groups: Sequence[CandidateGroup],
    config: SelectConfig,
    checkpoints: Checkpoints,
    seed: int,
    report: Report,
    head: torch.Tensor | None = None,
) -> tuple[Scorer, Log]:
    """Train `adapter`, which must exist, and a linear head. Returns the scorer and the log.

    head: what the head [1, H] starts from; None means a random one.
    """
    rows: list[dict[str, Any]] = [
        {
            "sequences": [encode_pair(backbone.tokenizer, group.prompt, c.completion, c.finished) for c in group.candidates],
            "target": [c.wins / sum(x.wins for x in group.candidates) for c in group.candidates],
        }
        for group in groups
    ]
    with backbone.role(adapter, train=True):
        model = ScoringModel(backbone, seed, head)
        log = Training(config, checkpoints, seed, report).fit(
            ListwiseTrainer,
            transformers.TrainingArguments,
            model,
            rows,
            [max(map(len, row["sequences"])) for row in rows],
            data_collator=lambda items: collate(items, backbone.tokenizer.pad_token_id),
        )
    return Scorer(backbone, adapter, model.score.weight.detach()), log


def collate(items: Sequence[dict[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """Return groups of candidates as one flat batch: input_ids and attention_mask [N, T], group [N], target [N]."""
    sequences = [torch.tensor(ids) for item in items for ids in item["sequences"]]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(sequences, batch_first=True, padding_value=pad_id),
        "attention_mask": pad([torch.ones_like(ids) for ids in sequences], batch_first=True),
        "group": torch.tensor([number for number, item in enumerate(items) for _ in item["sequences"]]),
        "target": torch.tensor([wins for item in items for wins in item["target"]]),
    }
