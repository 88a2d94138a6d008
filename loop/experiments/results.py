"""What an experiment has measured, as plain rows: one value for each run, means by arm, and differences paired by seed.

A row says its `metric` and `round`. `last` is the last round of each arm, so arms with different numbers of rounds can be compared by
what they end with. Must never import torch or Ray.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from loop.experiments.intervals import paired
from loop.experiments.metrics import check_found, is_by_round, read_metric
from loop.experiments.plan import Arm, Experiment, Metric
from loop.store.artifacts import write_synced
from loop.store.journal import RunState, fold, read_events
from loop.store.layout import RunFolder
from rewards.measurements import summarize

KL = "evaluate.kl"
"""Every difference comes with this metric of both arms: gold means little without the distance that was paid for it."""
LAST: Literal["last"] = "last"
Round = int | Literal["last"]
States = Mapping[str, Mapping[int, RunState]]
"""The state of every run, by arm and seed."""


def read_states(experiment: Experiment, folder: Path, seeds: list[int]) -> States:
    """Read the journals of the runs with these seeds. Raises UserError where one is damaged, and for a metric that no run has."""
    states = {
        arm.name: {seed: fold(read_events(RunFolder(folder / arm.run_name(seed)).journal)) for seed in seeds}
        for arm in experiment.arms.values()
    }
    runs = [(state, experiment.arms[name].num_rounds - 1) for name, by_seed in states.items() for state in by_seed.values()]
    check_found([state for state, _ in runs], [metric.path for metric in experiment.metrics], [last for _, last in runs])
    return states


def summarize_experiment(experiment: Experiment, states: States, seeds: list[int], command: str) -> dict[str, Any]:
    """Everything that `results.json` holds. seeds: those whose runs are all done. command: what makes the experiment."""
    rows: dict[str, list[dict[str, Any]]] = {"values": [], "means": [], "differences": []}
    for metric in experiment.metrics:
        for at in rounds_of(experiment, metric):
            by_arm = {name: _by_seed(arm, states[name], metric.path, at) for name, arm in experiment.arms.items()}
            label = {"metric": metric.path, "round": at}
            for name, by_seed in by_arm.items():
                rows["values"] += [label | {"arm": name, "seed": seed, "value": value} for seed, value in by_seed.items()]
                rows["means"] += [label | {"arm": name} | summarize(list(by_seed.values()))] if by_seed else []
            for first, second in experiment.compare:
                if difference := paired(by_arm[first], by_arm[second]):
                    shared = sorted(by_arm[first].keys() & by_arm[second].keys())
                    kl = {name: _mean_kl(experiment.arms[name], states[name], at, shared) for name in (first, second)}
                    rows["differences"].append(label | {"arm": first, "minus": second} | asdict(difference) | {"kl": kl})
    arms = {name: {"kind": arm.kind, "rounds": arm.num_rounds, "changes": arm.changes} for name, arm in experiment.arms.items()}
    return {"experiment": experiment.name, "command": command, "seeds": seeds, "all_seeds": experiment.seeds, "arms": arms} | rows


def write_json(folder: Path, results: Mapping[str, Any]) -> None:
    """Write `results.json`."""
    write_synced(folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def rounds_of(experiment: Experiment, metric: Metric) -> list[Round]:
    """The rounds at which a metric is read: each arm's last one, after every round if the experiment asks for that."""
    if metric.rounds == LAST or not is_by_round(metric.path):
        return [LAST]
    return [*range(max(arm.num_rounds for arm in experiment.arms.values())), LAST]


def _by_seed(arm: Arm, states: Mapping[int, RunState], path: str, at: Round) -> dict[int, float]:
    """The metric of an arm's runs, by seed. Without the runs that do not have it, or not so many rounds."""
    number = arm.num_rounds - 1 if at == LAST else int(at)
    found = {seed: read_metric(state, path, number) for seed, state in states.items() if number < arm.num_rounds}
    return {seed: value for seed, value in found.items() if value is not None}


def _mean_kl(arm: Arm, states: Mapping[int, RunState], at: Round, seeds: list[int]) -> float | None:
    """The mean KL of an arm's policies over some seeds. None where it was not measured."""
    found = _by_seed(arm, states, KL, at)
    return summarize([found[seed] for seed in seeds if seed in found])["mean"]
