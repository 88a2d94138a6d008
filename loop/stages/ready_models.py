"""A reward model from elsewhere (`labeler.model`): which files or which commit it is, and loading exactly these.

The `labeler` stage records that in `model.json`, which is a part of its digest, so the keys of the label stages depend on the weights. The
key of the `labeler` stage itself has the hashes of local files (`loop/functions.py`).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.judging import LabelerConfig
from loop.stages.context import Context, Metrics
from loop.stages.reward_models import judge_reward_model
from loop.store.base_files import hash_files
from loop.store.measures import WARNINGS
from policies.loading import resolved_commit
from rewards.comparisons import Answer, Comparison
from rewards.ready_folders import find_model
from rewards.ready_model import ReadyRewardModel
from rewards.shown import as_shown

RECORD = "model.json"
OTHER_BASE = "the adapter in {} names {} as its base, and is put on {}"
UNREAD = "{} of {} held-out pairs have more than the {} tokens that the labeling model reads: samples of such length get no label"


def record_reward_model(context: Context) -> Metrics:
    """Check the model, write which one it is, and judge it beside simple baselines on the original held-out pairs that it can read."""
    config = context.config.labeler
    record: dict[str, Any] = {"model": config.model, "adapter": config.adapter, "files": _files(config)}
    scorer = ReadyRewardModel.load(config, context.config.runtime.tokens_per_batch)
    found = find_model(config)
    assert found is not None
    if not Path(found.model).is_dir():
        record["commit"] = resolved_commit(found.model, found.revision)
    context.save_json(RECORD, record)
    heldout = [as_shown(pair) for pair in context.pairs("heldout_pairs")]
    readable = _readable(scorer, heldout, str(config.model))
    metrics = _judge(context, scorer, readable)
    scorer.release()
    warnings = [OTHER_BASE.format(found.adapter, found.other_base, found.model)] if found.other_base else []
    if unread := len(heldout) - len(readable):
        warnings.append(UNREAD.format(unread, len(heldout), scorer.window))
    if warnings:
        metrics[WARNINGS] = [*warnings, *metrics.get(WARNINGS, [])]
    return metrics | ({"commit": record["commit"]} if record.get("commit") else {})


def _readable(scorer: ReadyRewardModel, heldout: Sequence[Comparison], model: str) -> list[Comparison]:
    """The pairs that are short enough for the model. Raises UserError if there are pairs and none is."""
    readable = [
        pair
        for pair in heldout
        if scorer.can_read(Answer(pair.prompt, pair.chosen, pair.chosen_finished))
        and scorer.can_read(Answer(pair.prompt, pair.rejected, pair.rejected_finished))
    ]
    if heldout and not readable:
        what = f"the reward model reads at most {scorer.window} tokens, and all {len(heldout)} held-out pairs have more"
        to_do = "lower data.max_prompt_tokens and data.max_completion_tokens, or choose another model"
        raise UserError(what, f"labeler.model={model}", to_do)
    return readable


def _judge(context: Context, scorer: ReadyRewardModel, heldout: Sequence[Comparison]) -> Metrics:
    """The model's accuracy beside that of baselines. Empty if no pair is there to fit them on."""
    training = [as_shown(pair) for pair in context.pairs("pairs") if not pair.tie]
    danger, advice = "its labels may tell no more than that on this data", "look at what it was trained for, or choose another model"
    return judge_reward_model(context, scorer, training, "the labeling model", danger, advice, heldout) if training else {}


def load_recorded(context: Context) -> ReadyRewardModel:
    """The model that the `labeler` stage has recorded. Raises UserError if its files are others now."""
    config = context.config.labeler
    record = json.loads((context.inputs["labeler"] / RECORD).read_text(encoding="utf-8"))
    _check_unchanged(config, record["files"])
    scorer = ReadyRewardModel.load(config, context.config.runtime.tokens_per_batch, record.get("commit"))
    _check_unchanged(config, record["files"])  # again, because they may have been replaced while they were read
    return scorer


def _files(config: LabelerConfig) -> dict[str, dict[str, str]]:
    found = find_model(config)
    return {str(folder): hash_files(folder) for folder in (found.folders if found else [])}


def _check_unchanged(config: LabelerConfig, before: dict[str, dict[str, str]]) -> None:
    now = _files(config)
    if now != before:
        changed = [f"{folder}/{name}" for folder in sorted(before.keys() | now.keys()) for name in _differing(before, now, folder)]
        to_do = "run the same command again: the model is then recorded and asked anew"
        raise UserError(f"the reward model was changed while the run was using it: {changed[0]}", f"labeler.model={config.model}", to_do)


def _differing(before: dict[str, dict[str, str]], now: dict[str, dict[str, str]], folder: str) -> list[str]:
    was, is_now = before.get(folder, {}), now.get(folder, {})
    return sorted(name for name in was.keys() | is_now.keys() if was.get(name) != is_now.get(name))
