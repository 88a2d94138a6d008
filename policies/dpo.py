"""Direct preference optimization (DPO) of an adapter, by TRL's DPOTrainer.

    loss = -log sigmoid(beta (log p(c) / q(c) - log p(r) / q(r)))        (arXiv 2305.18290, equation 7)

c is the chosen and r the rejected completion of a prompt, p the policy and q the reference, which is another adapter on the same base. The
reference never changes, so its log-probabilities are computed once, before training.
"""

from collections.abc import Sequence
from typing import Any

from configs.schema import DPOConfig
from policies.backbone import Backbone
from policies.batching import batches_by_length
from policies.checkpoints import Checkpoints
from policies.reporting import Report
from policies.responses import ResponseBatch
from policies.training import Log, Training

Pair = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Token ids of a prompt, of the chosen and of the rejected completion."""
SHARD = 512
"""Pairs for which one worker asks the reference before it takes the next ones and saves what it has."""


class PreparedRows:
    """Mixed into TRL's DPOTrainer: the rows have token ids and the log-probabilities of the reference already.

    TRL would make the token ids from texts, and end every completion with the end token, also one that the policy did not finish. It would
    keep the log-probabilities in a file that only workers of the same process can see.
    """

    def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *arguments: Any) -> Any:
        return dataset


def train_dpo(
    backbone: Backbone,
    adapter: str,
    pairs: Sequence[Pair],
    config: DPOConfig,
    checkpoints: Checkpoints,
    seed: int,
    report: Report,
    reference: str = "sft",
) -> Log:
    """Train `adapter` to prefer the chosen completions more than the adapter `reference` does. Returns the log.

    The adapter must exist. It is usually a copy of the reference, which is never changed.
    """
    import trl  # late, because importing it takes seconds, and most stages do not need it

    asked = checkpoints.in_shards("reference", pairs, SHARD, lambda part: _summed_logprobs(backbone, reference, part))
    rows = [
        {
            "prompt_ids": prompt,
            "chosen_ids": chosen,
            "rejected_ids": rejected,
            "ref_chosen_logps": of_chosen,
            "ref_rejected_logps": of_rejected,
        }
        for (prompt, chosen, rejected), (of_chosen, of_rejected) in zip(pairs, asked, strict=True)
    ]
    with backbone.role(adapter, train=True):
        return Training(config, checkpoints, seed, report).fit(
            type("DPOTrainer", (PreparedRows, trl.DPOTrainer), {}),
            trl.DPOConfig,
            backbone.causal_lm,
            rows,
            _lengths(pairs),
            arguments={"beta": config.beta, "precompute_ref_log_probs": True, "max_length": None, "activation_checkpointing": False},
            processing_class=backbone.tokenizer,
        )


def _summed_logprobs(backbone: Backbone, adapter: str, pairs: Sequence[Pair]) -> list[tuple[float, float]]:
    """The log-probability of the chosen and of the rejected completion of each pair under an adapter, at temperature 1, as in TRL."""
    found = [(0.0, 0.0)] * len(pairs)
    for numbers in batches_by_length(_lengths(pairs), backbone.tokens_per_batch):
        sides = [
            ResponseBatch.from_ids(backbone, [pairs[i][0] for i in numbers], [pairs[i][side] for i in numbers]).under(adapter)[1].sum(1)
            for side in (1, 2)
        ]
        for i, of_chosen, of_rejected in zip(numbers, *(side.tolist() for side in sides), strict=True):
            found[i] = (of_chosen, of_rejected)
    return found


def _lengths(pairs: Sequence[Pair]) -> list[int]:
    """The tokens of the longer sequence of each pair."""
    return [len(prompt) + max(len(chosen), len(rejected)) for prompt, chosen, rejected in pairs]
