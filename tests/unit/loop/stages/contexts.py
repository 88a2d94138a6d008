"""What a stage gets when a test calls it in its own process."""

from configs.schema import RunConfig
from configs.views import visible
from loop.round import STAGES, Stage
from loop.stages import Context
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing

SETTINGS = {
    "data": "pairs.jsonl",
    "labeler": {"kind": "preferences-file", "path": "labels.jsonl"},
    "reward": {"normalization_samples": 60},
    "evaluate": {"num_prompts": 60},
    "sample": {"num_prompts": 60, "num_completions": 2, "earlier_fraction": 0.5},
}


def context(stage, folders, backbone, output, seed=0, round_number=None, **settings):
    """A context of the stage, which is a name or a Stage, with these folders as its inputs."""
    output.mkdir(parents=True, exist_ok=True)
    declared = stage if isinstance(stage, Stage) else next(found for found in STAGES if found.name == stage)
    config = visible(RunConfig.model_validate(SETTINGS | {"seed": seed} | settings), declared.visible)
    return Context(
        declared.name, round_number, config, folders, output, Checkpoints(), report_nothing, get_backbone=lambda folder: backbone
    )
