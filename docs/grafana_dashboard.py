"""The Grafana dashboard of a run, docs/grafana/loop.json. `python -m docs.generate` writes it.

Each panel asks Prometheus for metrics that Ray serves. Their names and units come from loop/store/measures.py.
"""

import json
from dataclasses import dataclass
from typing import Any

from loop.store.measures import COUNTERS, RUNNING, find_measure, name_on_ray

NOW, TRAINING, ROUNDS, MACHINE = "Now", "The policy while it is trained", "Rounds, when their stages are finished", "Time and memory"
COLUMNS, WIDTH, HEIGHT = 3, 8, 8
"""Panels in a row; Grafana's grid is 24 wide."""
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
UNITS = {"fraction": "percentunit", "bytes": "bytes", "s": "s"}
"""Units of this project as Grafana names them; all others are plain numbers."""


@dataclass(frozen=True)
class Panel:
    """A chart of one metric. legend: how Grafana names a curve. stage: only what this stage has measured."""

    title: str
    metric: str
    legend: str = "round {{round}}"
    stage: str | None = None


PANELS: dict[str, list[Panel]] = {
    NOW: [
        Panel("Steps done", "steps_done", "{{stage}}, round {{round}}"),
        Panel("Steps wanted", "steps_wanted", "{{stage}}, round {{round}}"),
        Panel("Labels waited for", "labels_waiting"),
        Panel("Completions per second", "samples_made", "{{stage}}"),
        Panel("Tokens per second", "tokens_made", "{{stage}}"),
        Panel("Steps per second", "steps_per_second", "{{stage}}"),
    ],
    TRAINING: [
        Panel("Score", "objective/scores"),
        Panel("KL from the reference", "objective/kl"),
        Panel("Entropy of a token", "policy/entropy_avg"),
        Panel("Response length", "val/response_length"),
        Panel("Loss of the trainers", "loss", "{{stage}}, round {{round}}"),
    ],
    ROUNDS: [
        Panel("Gold (only in the embedded world)", "gold", stage="evaluate"),
        Panel("Gold over the SFT policy", "gold_over_sft"),
        Panel("Win rate", "win_rate", "{{part}}, round {{round}}"),
        Panel("Score over the SFT policy", "proxy_gain"),
        Panel("KL from the SFT policy", "kl", stage="evaluate"),
        Panel("Defects by rule", "defects", "{{part}}, round {{round}}", stage="evaluate"),
        Panel("Accuracy of the round's reward model by generation", "reward_accuracy", "{{part}}, round {{round}}"),
        Panel("Accuracy of the retrained reward model by generation", "retrained_accuracy", "{{part}}, round {{round}}"),
        Panel("Accuracy of the selectors", "judged", "{{part}}, round {{round}}"),
        Panel("Rows that the reward model is trained on, by origin", "mixture", "{{part}}, round {{round}}", stage="retrain"),
    ],
    MACHINE: [
        Panel("Resident bytes of the policy stage by owner", "memory", "{{part}}"),
        Panel("Seconds by stage", "seconds", "{{stage}}, round {{round}}"),
    ],
}


def text() -> str:
    """Return the file."""
    return json.dumps(dashboard(), indent=2) + "\n"


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, group in PANELS.items():
        panels.append({"type": "row", "title": title, "gridPos": {"x": 0, "y": top, "w": 24, "h": 1}, "collapsed": False, "panels": []})
        for number, panel in enumerate(group):
            place = {"x": number % COLUMNS * WIDTH, "y": top + 1 + number // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(_chart(panel, place))
        top += 1 + -(-len(group) // COLUMNS) * HEIGHT
    return {
        "title": "loop",
        "uid": "loop-rlhf",
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_datasources(), _runs()]},
        "panels": [panel | {"id": number} for number, panel in enumerate(panels, 1)],
    }


def query(panel: Panel) -> str:
    """Return what a panel asks Prometheus for."""
    labels = ",".join(['run=~"$run"', *([f'stage="{panel.stage}"'] if panel.stage else [])])
    name = f"ray_{name_on_ray(panel.metric)}"
    return f"rate({name}_total{{{labels}}}[1m])" if panel.metric in COUNTERS else f"{name}{{{labels}}}"


def _chart(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    measure = (RUNNING | COUNTERS).get(panel.metric) or find_measure(panel.metric)
    assert measure is not None, panel.metric
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": f"{measure.meaning} ({measure.unit})",
        "gridPos": place,
        "datasource": DATASOURCE,
        "targets": [{"refId": "A", "datasource": DATASOURCE, "expr": query(panel), "legendFormat": panel.legend}],
        "fieldConfig": {"defaults": {"unit": UNITS.get(measure.unit, "short")}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    }


def _datasources() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def _runs() -> dict[str, Any]:
    """The choice of runs at the top of the page."""
    question = f"label_values(ray_{name_on_ray('steps_wanted')}, run)"
    return {
        "name": "run",
        "type": "query",
        "label": "run",
        "datasource": DATASOURCE,
        "query": {"query": question, "refId": "runs"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
    }
