"""What `loop choose` asks of a worker: the favorite among several completions of each prompt. It is part of no run."""

from collections.abc import Sequence
from typing import Any

from configs.errors import UserError
from loop.stages.context import Context, Metrics
from loop.stages.selecting import tools_with, used_selector
from policies.tokenization import last_turn
from rewards.comparisons import PromptRecord, Sample, read_jsonl
from rewards.scoring import Scorer
from rewards.selectors import group_samples, listwise
from rewards.selectors.choosing import choose as choose_favourites
from rewards.shown import as_shown

SHOWN_CHARACTERS = 60
"""How much of a prompt a message shows."""


def choose(context: Context) -> Metrics:
    """Sample `sample.num_completions` completions of each prompt from a round's policy, and have its selector choose one.

    `chosen.jsonl` has a row for each prompt with all candidates. Raises UserError for a prompt that the policy cannot read.
    """
    inputs, num = context.inputs, context.config.sample.num_completions
    backbone = context.backbone_with_sft()
    records = read_jsonl(inputs["prompts"] / "prompts.jsonl", PromptRecord)
    if context.pivot:
        records = context.pivot.ask(records)
    _check_lengths(context, records)
    backbone.add_adapter("policy", folder=inputs["policy"])
    samples = context.sampler.sample("policy", records, num, context.round, context.round, context.digest("policy"), context.seed)
    tools = tools_with(context, Scorer.load(backbone, "retrained", inputs["retrained"]))
    choices = choose_favourites(used_selector(context, inputs["select"], tools), group_samples(samples))
    rows = [choice.row() | {"candidates": choice.candidates()} for choice in choices]
    context.save_rows("chosen.jsonl", [_as_shown(row, samples) for row in rows])
    context.drop_adapters("policy", "retrained", listwise.LOADED)
    return {"prompts": len(records), "samples": len(samples)}


def _as_shown(row: dict[str, Any], samples: Sequence[Sample]) -> dict[str, Any]:
    """A choice with the texts that people see. What the policy read and wrote, in the pivot language, is beside them under `pivot`."""
    of_prompt = {
        (sample.completion, sample.finished): sample for sample in samples if sample.prompt_id == row["prompt_id"] and sample.pivot
    }
    if not of_prompt:
        return row

    def shown(answer: dict[str, Any]) -> dict[str, Any]:
        sample = of_prompt[answer["completion"], answer["finished"]]
        return answer | {"completion": as_shown(sample).completion, "pivot": {"prompt": sample.prompt, "completion": sample.completion}}

    first = next(iter(of_prompt.values()))
    return shown(row) | {"prompt": as_shown(first).prompt, "candidates": [shown(answer) for answer in row["candidates"]]}


def _check_lengths(context: Context, records: list[PromptRecord]) -> None:
    limits = context.limits
    for record in records:
        if reason := limits.excess(record):
            text = last_turn(record.prompt)
            shown = text[:SHOWN_CHARACTERS] + "…" * (len(text) > SHOWN_CHARACTERS)
            to_do = f"change or remove the prompt; the run allows data.max_prompt_tokens={limits.max_prompt_tokens}"
            raise UserError(f"the policy cannot answer a prompt: {reason}", f"the prompt {shown!r}", to_do)
