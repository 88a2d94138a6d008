"""The Grafana dashboard asks for metrics that Ray serves, by tags that they have."""

import json
import re
from pathlib import Path

import pytest

from loop.store.measures import COUNTERS, MEASURES, RUNNING, TAGS_ON_RAY, find_measure, name_on_ray

FILE = Path(__file__).parents[2] / "docs" / "grafana" / "loop.json"
DASHBOARD = json.loads(FILE.read_text(encoding="utf-8"))
CHARTS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SERVED = {f"ray_{name_on_ray(name)}" for name in (*MEASURES, *RUNNING)} | {f"ray_{name_on_ray(name)}_total" for name in COUNTERS}
PAIRED = {
    f"ray_{name_on_ray(f'{name}_over_{other}')}" for name in MEASURES for other in ("sft", "last") if find_measure(f"{name}_over_{other}")
}
"""`X_over_Y` is known wherever X is."""


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart["title"])
def test_a_chart_asks_for_a_metric_that_exists(chart):
    (target,) = chart["targets"]
    (name,) = re.findall(r"ray_\w+", target["expr"])
    assert name in SERVED | PAIRED
    tags = re.findall(r"(\w+)=~?\"", target["expr"]) + re.findall(r"{{(\w+)}}", target["legendFormat"])
    assert "run" in tags and set(tags) <= set(TAGS_ON_RAY)
    assert name.endswith("_total") == target["expr"].startswith("rate(")


def test_charts_do_not_cover_each_other():
    covered = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(covered) == len(set(covered)) and max(x for x, _ in covered) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_choice_of_runs_asks_for_a_metric_that_exists():
    (question,) = [choice["query"]["query"] for choice in DASHBOARD["templating"]["list"] if choice["type"] == "query"]
    assert re.findall(r"label_values\((\w+), (\w+)\)", question)[0][0] in SERVED
