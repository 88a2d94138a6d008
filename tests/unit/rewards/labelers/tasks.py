"""What the label stage hands to a labeler, as tests make it. Nothing in it needs a tokenizer or a model."""

from pathlib import Path

from configs.schema import LabelerConfig
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from rewards.data.splits import Split
from rewards.labelers.labels import LabelTask

SPLIT = Split(seed=0, heldout_fraction=0.2)


def make_task(samples, config, round_number=0, **parts):
    """A task for the samples of a round. parts: further fields of `LabelTask`, or other values than these."""
    usual = {
        "samples_file": Path("samples.jsonl"),
        "split": SPLIT,
        "seed": 0,
        "checkpoints": Checkpoints(),
        "report": report_nothing,
        "get_limits": None,
        "get_scorer": None,
    }
    return LabelTask(samples=samples, config=config, round_number=round_number, **usual | parts)


def file_task(samples, path, round_number=0, parts=(), **settings):
    """A task whose labels come from a file. settings: of the labeler."""
    config = LabelerConfig(kind="preferences-file", path=str(path), **settings)
    return make_task(samples, config, round_number, **dict(parts))
