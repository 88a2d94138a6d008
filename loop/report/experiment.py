"""The page of an experiment: its tables and plots, from the `results.json` that loop/experiments has written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.errors import UserError
from loop.experiments.intervals import interval
from loop.experiments.results import LAST
from loop.experiments.tables import NOTE, changes, make_tables
from loop.report.charts import Chart, Point, Series, line_chart
from loop.report.page import Page, Part, Section, Story
from loop.report.story import Answer
from loop.store.measures import find_measure
from loop.wording import Table

RESULTS = "results.json"
SHOWN_ANSWERS = 6
"""How many differences stand on the first screen."""
DODGE = 0.05
"""How far beside each other, in rounds, the arms are drawn at the same round."""


def is_experiment(folder: Path) -> bool:
    """Whether a folder is that of an experiment with results."""
    return (folder / RESULTS).is_file()


def experiment_page(folder: Path) -> Page:
    """The page of an experiment. Raises UserError for results that cannot be read."""
    path = folder / RESULTS
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        tables = make_tables(results)
        charts = [*_by_round(results), *_differences(results)]
        arms = [[name, str(arm["rounds"]), changes(arm)] for name, arm in results["arms"].items()]
        measured = Table("What is measured", ["metric", "unit", "meaning"], list(map(_meaning, _metrics(results))))
        answers = [_answer(row) for row in results["differences"] if row["round"] == LAST]
        lead = [f"{len(results['seeds'])} of {len(results['all_seeds'])} seeds done.", results["command"]]
        if len(answers) > SHOWN_ANSWERS:
            lead.append(f"First come {SHOWN_ANSWERS} of {len(answers)} differences; the last table has all of them.")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "the results of the experiment cannot be read", str(path), "run the same `loop experiment` command again"
        ) from error
    sections = [
        Section(
            "arms",
            "Arms",
            [Part(tables=[Table("Settings over the base of the experiment", ["arm", "rounds", "settings"], arms), measured])],
        ),
        Section("plots", "Plots", [Part(charts=charts)]),
        Section("tables", "Tables", [Part(tables=tables)]),
    ]
    stories = [Story(results["experiment"], answers[:SHOWN_ANSWERS], [])]
    return Page(
        "Report of an experiment", results["experiment"], lead, stories, [s for s in sections if not s.parts[0].is_empty], footer=NOTE
    )


def _metrics(results: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["metric"] for row in results["means"]))


def _meaning(metric: str) -> list[str]:
    """A metric with its unit and what it is, by its own name or by the one that it is a part of."""
    stage, *names = metric.split(".")
    known = next(filter(None, map(find_measure, names)), None)
    return [metric, known.unit if known else "", f"{known.meaning} ({stage})" if known else f"a figure of the stage {stage}"]


def _answer(row: Mapping[str, Any]) -> Answer:
    """One difference between two arms as an answer. Whether more of a metric is better is for the reader."""
    question = f"{row['metric']}: {row['arm']} against {row['minus']}"
    counted = f"Above zero in {row['positive']} of {row['count']} seeds, after the last round of each arm."
    if row["low"] is None:
        return Answer(question, f"{row['mean']:+.3f}", "plain", ["One seed gives no interval.", counted])
    clear = row["low"] > 0 or row["high"] < 0
    said = f"The 95% interval is {row['low']:+.3f} to {row['high']:+.3f}{'' if clear else ', so there may be no difference'}."
    return Answer(question, f"{row['mean']:+.3f}{'' if clear else ', not clear'}", "plain", [said, counted])


def _by_round(results: Mapping[str, Any]) -> list[Chart]:
    """Each metric by round, a line for each arm, or by arm where only the last round was asked for."""
    found = []
    arms = list(results["arms"])
    for metric in _metrics(results):
        rows = [row for row in results["means"] if row["metric"] == metric]
        numbered = [row for row in rows if row["round"] != LAST]
        if numbered:
            shifts = [DODGE * (number - (len(arms) - 1) / 2) for number in range(len(arms))]
            series = [_line(arm, number, [row for row in numbered if row["arm"] == arm], shifts[number]) for number, arm in enumerate(arms)]
            ticks = [(float(r), str(r)) for r in sorted({row["round"] for row in numbered})]
            found.append(line_chart(metric, "By round: the mean over seeds, with Student's 95% interval.", series, "round", "", ticks))
        series = [_last(results, metric, arm, number) for number, arm in enumerate(arms)]
        ticks = [(float(number), str(number + 1)) for number in range(len(arms))]
        note = "After the last round of each arm. Points are seeds; beside them stands their mean with its 95% interval."
        found.append(line_chart(f"{metric}, last round", note, series, "arm, in the order of the legend", "", ticks))
    return [chart for chart in found if chart]


def _line(arm: str, colour: int, rows: list[Mapping[str, Any]], shift: float) -> Series:
    ordered = sorted(rows, key=lambda row: row["round"])
    return Series(arm, [Point(row["round"], row["mean"], _ends(row), shift=shift) for row in ordered], colour)


def _last(results: Mapping[str, Any], metric: str, arm: str, number: int) -> Series:
    """The seeds of an arm, and their mean a little to the right of them."""

    def is_it(row: Mapping[str, Any]) -> bool:
        return row["metric"] == metric and row["arm"] == arm and row["round"] == LAST

    points = [Point(number, row["value"]) for row in results["values"] if is_it(row)]
    points += [Point(number, row["mean"], _ends(row), shift=0.18) for row in results["means"] if is_it(row)]
    return Series(arm, points, number, joined=False)


def _ends(row: Mapping[str, Any]) -> tuple[float, float] | None:
    return interval(row["mean"], row["standard_error"], row["count"])


def _differences(results: Mapping[str, Any]) -> list[Chart]:
    """The differences after the last round, one chart for each metric."""
    found = []
    for metric in dict.fromkeys(row["metric"] for row in results["differences"]):
        rows = [row for row in results["differences"] if row["metric"] == metric and row["round"] == LAST]
        series = [
            Series(
                f"{row['arm']} - {row['minus']}",
                [Point(number, row["mean"], None if row["low"] is None else (row["low"], row["high"]))],
                number,
                joined=False,
            )
            for number, row in enumerate(rows)
        ]
        ticks = [(float(number), str(number + 1)) for number in range(len(rows))]
        note = "Paired by seed, with Student's 95% interval. The dotted line is no difference."
        found.append(line_chart(f"Differences in {metric}", note, series, "difference, in the order of the legend", "", ticks, level=0.0))
    return [chart for chart in found if chart]
