"""Makes the runs of an experiment, one after the other on one executor, and writes the results whenever a seed is done.

Every run is a run like any other, in `<runs>/<experiment>/<arm>-seed-<seed>`. The same command continues where it was stopped. A stage
whose key is equal in another run of the experiment is copied from there. Must never import torch or Ray.
"""

from pathlib import Path
from typing import Any

from configs.errors import UserError
from loop.driver import Driver
from loop.executors.executor import Executor
from loop.experiments.plan import KINDS, Experiment
from loop.experiments.results import read_states, summarize_experiment, write_json
from loop.experiments.tables import write_markdown
from loop.forks import find_other_settings
from loop.signals import StopSignals
from loop.store.journal import fold, read_events
from loop.store.layout import RunFolder, runs_in
from loop.store.stage_library import StageLibrary
from loop.terminal import Terminal


def check_runs(experiment: Experiment, folder: Path) -> None:
    """Raises UserError where the directory of the experiment holds something else, or runs that other settings have made."""
    if RunFolder(folder).journal.exists():
        raise UserError(f"there is a run {folder.name!r}, so no experiment can have this name", str(folder), "give the file another `name`")
    for arm in experiment.arms.values():
        for seed in experiment.seeds:
            run = RunFolder(folder / arm.run_name(seed))
            if differing := find_other_settings(run.path, fold(read_events(run.journal)), arm.config(seed)):
                what = f"the run {run.name!r} of this experiment was made with other settings: {'; '.join(differing)}"
                to_do = "give the changed arm another name; its new runs copy the stages that are still the same"
                raise UserError(what, str(run.path), to_do)


def make_runs(
    experiment: Experiment, folder: Path, terminal: Terminal, executor: Executor, signals: StopSignals, command: str
) -> dict[str, Any]:
    """Make every run that is not done, and return the results. Raises a LoopError where a run does not end well.

    command: what the user typed, for the results. All arms of a seed come before the next seed, so that what is done can be compared.
    """
    library = StageLibrary(runs_in(folder))
    results: dict[str, Any] = {}
    for number, seed in enumerate(experiment.seeds, 1):
        for arm in experiment.arms.values():
            config = arm.config(seed)
            terminal.say(f"-- {config.name}")
            Driver(config, folder / config.name, terminal, executor, signals, library=library).execute(KINDS[arm.kind])
        seeds = experiment.seeds[:number]
        results = summarize_experiment(experiment, read_states(experiment, folder, seeds), seeds, command)
        write_json(folder, results)
        write_markdown(folder, results)
    return results
