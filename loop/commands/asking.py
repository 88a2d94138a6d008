"""What `choose` and `promote` share: a worker in this process does something with committed stages of a run, without Ray.

The run is only read, so it may continue meanwhile. Must never import torch or Ray itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.errors import LoopError, UserError
from configs.loading import validate
from configs.schema import RunConfig
from loop.executors import executor_for
from loop.executors.executor import StageRequest
from loop.failures import TRACEBACK_LINES, StageFailed
from loop.functions import hash_functions
from loop.masking import masked, secrets_of
from loop.round import Stage
from loop.store.artifacts import find_damage
from loop.store.journal import RunState
from loop.store.layout import RunFolder, StageWork
from loop.store.progress import read_progress
from loop.store.run_config import read_config
from loop.terminal import Terminal


def config_in_this_process(folder: RunFolder, state: RunState, **sections: dict[str, Any]) -> RunConfig:
    """The config of the run for a worker in this process. sections: values that take the place of the run's own."""
    values = read_config(folder.path, state).model_dump()
    for name, section in {"runtime": {"executor": "in-process", "workers": 1}, **sections}.items():
        values[name] |= section
    return validate(values, str(folder.config))


def whole_stages(folder: RunFolder, state: RunState, places: Mapping[str, tuple[Stage, int | None]]) -> dict[str, Path]:
    """The directories of committed stages, by the names of `places`. Raises UserError if one of them is damaged."""
    for stage, number in places.values():
        committed = state.stage(stage.name, number).committed
        if damage := find_damage(folder.stage(stage.name, number), committed.manifest if committed else None):
            to_do = f"delete that directory, and `loop resume {folder.name}` makes it again"
            raise UserError(f"{stage.name} is damaged: {damage[0]}", str(folder.stage(stage.name, number)), to_do)
    return {name: folder.stage(stage.name, number) for name, (stage, number) in places.items()}


def ask(
    stage: Stage, round_number: int | None, config: RunConfig, inputs: Mapping[str, Path], place: Path, output: Path, doing: str
) -> dict[str, Any]:
    """Have `stage` fill the empty directory `output`, and return its metrics.

    place: an empty directory for what is needed meanwhile. doing: what the progress bar says. Raises LoopError with the end of the
    traceback where the work fails, because there is no log.
    """
    work, terminal = StageWork(place / "work"), Terminal()
    work.path.mkdir()
    request = StageRequest(
        stage=stage.name,
        round=round_number,
        config=config.model_dump(mode="json"),
        reads=stage.visible,
        functions=hash_functions(config, stage),
        inputs={name: str(path) for name, path in inputs.items()},
        work=str(work.path),
        output=str(output),
    )
    with executor_for(config, place) as executor:
        with terminal.stage("starting"):
            executor.start()
        with terminal.stage(doing) as show:
            try:
                return executor.run(stage.name, request, lambda: show(read_progress(work.progress)))
            except StageFailed as failed:
                end = "\n".join(failed.detail.strip().splitlines()[-TRACEBACK_LINES:])
                raise LoopError(masked(f"{doing} failed: {failed}\n{end}", secrets_of(config))) from None
