"""A reward model from elsewhere (`labeler.model`): which files or which commit it is, and loading exactly these.

The `labeler` stage records that in `model.json`, which is a part of its digest, so the keys of the label stages depend on the weights. The
key of the `labeler` stage itself has the hashes of local files (`loop/functions.py`).
"""

import json
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.judging import LabelerConfig
from loop.stages.context import Context, Metrics
from loop.stages.reward_models import judge_reward_model
from loop.store.base_files import hash_files
from policies.loading import resolved_commit
from rewards.ready_folders import find_model
from rewards.ready_model import ReadyRewardModel

RECORD = "model.json"


def record_reward_model(context: Context) -> Metrics:
    """Check the model, write which one it is, and judge it beside simple baselines on the original held-out pairs."""
    config = context.config.labeler
    record: dict[str, Any] = {"model": config.model, "adapter": config.adapter, "files": _files(config)}
    scorer = ReadyRewardModel.load(config, context.config.runtime.tokens_per_batch)
    found = find_model(config)
    if found and not Path(found.model).is_dir():
        record["commit"] = resolved_commit(found.model, found.revision)
    context.save(lambda folder: (folder / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8"))
    training = [pair for pair in context.pairs("pairs") if not pair.tie]
    danger, advice = "its labels may tell no more than that on this data", "look at what it was trained for, or choose another model"
    metrics = judge_reward_model(context, scorer, training, "the labelling model", danger, advice)
    scorer.release()
    return metrics | ({"commit": record["commit"]} if record.get("commit") else {})


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
