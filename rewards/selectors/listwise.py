"""The listwise selector: an adapter and a head that predict which of a prompt's candidates will be preferred.

    loss = - sum_i w_i log softmax(s)_i        over the candidates i of one prompt with scores s_i

w_i is the fraction of the wins that candidate i has (ListNet with wins as the target, Cao et al. 2007). The selector is judged on
comparisons that nothing was trained on, and compared with chance, the longest candidate and the reward model's favourite.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
import transformers

from configs.schema import SelectConfig
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.reporting import Report
from policies.training import Log, Training
from rewards.comparisons import CandidateGroup, Comparison, group_candidates
from rewards.evaluation import Measurement
from rewards.reward_model import Chooser, outcomes
from rewards.scoring import Answer, Scorer, ScoringModel, encode_pair


class ListwiseTrainer(transformers.Trainer):
    """transformers' Trainer with the listwise loss. Its batches come from `collate`."""

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs: Any) -> Any:
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
    rows = [
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


def judge_choosers(choosers: dict[str, Chooser], comparisons: Sequence[Comparison]) -> dict[str, dict[str, Any]]:
    """Measure how well each chooser chooses.

    - `pairwise`: how often it scores the chosen completion above the rejected one.
    - `top1`: how often its favourite among a prompt's candidates is one of the most preferred. Only prompts whose candidates differ in wins
      count.

    `A_over_B` has the paired differences of the first chooser A from every other one. `random` has the `top1` of chance.
    """
    groups = [group for group in group_candidates(comparisons) if len({c.wins for c in group.candidates}) > 1]
    names, units = list(choosers), [group.prompt_id for group in groups]
    best = [[c.wins == max(x.wins for x in group.candidates) for c in group.candidates] for group in groups]
    measured = {}
    for name, chooser in choosers.items():
        scores = iter(chooser([(group.prompt, c.completion, c.finished) for group in groups for c in group.candidates]))
        rows = [list(islice(scores, len(is_best))) for is_best in best]
        hits = [float(is_best[row.index(max(row))]) for is_best, row in zip(best, rows, strict=True)]
        measured[name] = {"top1": Measurement(hits, units), "pairwise": outcomes(chooser, comparisons)}
    results: dict[str, dict[str, Any]] = {
        name: {what: measurement.accuracy() for what, measurement in parts.items()} for name, parts in measured.items()
    }
    for other in names[1:]:
        first, second = measured[names[0]], measured[other]
        results[f"{names[0]}_over_{other}"] = {what: (first[what] - second[what]).mean() for what in first}
    chance = Measurement([sum(is_best) / len(is_best) for is_best in best], units)
    return results | {"random": {"top1": chance.accuracy()}}


def longest(answers: Sequence[Answer]) -> list[float]:
    """Score completions by length in characters: the longer, the higher."""
    return [float(len(completion)) for _, completion, _ in answers]
