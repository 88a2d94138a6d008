"""The page of an experiment: its tables and plots, from the `results.json` that loop/experiments has written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.errors import UserError
from loop.experiments.intervals import interval
from loop.experiments.results import LAST
from loop.experiments.tables import NOTE, make_tables
from loop.report.charts import Chart, Point, Series, line_chart
from loop.report.page import Page, Part, Section, Story
from loop.report.story import Answer
from loop.wording import Table

RESULTS = "results.json"


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
        settings = [
            [name, str(arm["rounds"]), "; ".join(f"{key}={value}" for key, value in arm["changes"].items())]
            for name, arm in results["arms"].items()
        ]
        answers = [_answer(row) for row in results["differences"] if row["round"] == LAST][:3]
        lead = [f"{len(results['seeds'])} of {len(results['all_seeds'])} seeds done.", results["command"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "the results of the experiment cannot be read", str(path), "run the same `loop experiment` command again"
        ) from error
    sections = [
        Section(
            "arms", "Arms", [Part(tables=[Table("Settings over the base of the experiment", ["arm", "rounds", "settings"], settings)])]
        ),
        Section("plots", "Plots", [Part(charts=charts)]),
        Section("tables", "Tables", [Part(tables=tables)]),
    ]
    stories = [Story(results["experiment"], answers, [])]
    return Page(
        "Report of an experiment", results["experiment"], lead, stories, [s for s in sections if not s.parts[0].is_empty], footer=NOTE
    )


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
    for metric in dict.fromkeys(row["metric"] for row in results["means"]):
        rows = [row for row in results["means"] if row["metric"] == metric]
        numbered = [row for row in rows if row["round"] != LAST]
        if numbered:
            series = [_line(arm, number, [row for row in numbered if row["arm"] == arm]) for number, arm in enumerate(arms)]
            ticks = [(float(r), str(r)) for r in sorted({row["round"] for row in numbered})]
            found.append(line_chart(metric, "By round: the mean over seeds, with Student's 95% interval.", series, "round", "", ticks))
        series = [_last(results, metric, arm, number) for number, arm in enumerate(arms)]
        ticks = [(float(number), str(number + 1)) for number in range(len(arms))]
        note = "After the last round of each arm. Points are seeds; beside them stands their mean with its 95% interval."
        found.append(line_chart(f"{metric}, last round", note, series, "arm, in the order of the legend", "", ticks))
    return [chart for chart in found if chart]


def _line(arm: str, colour: int, rows: list[Mapping[str, Any]]) -> Series:
    ordered = sorted(rows, key=lambda row: row["round"])
    return Series(arm, [Point(row["round"], row["mean"], _ends(row)) for row in ordered], colour)


def _last(results: Mapping[str, Any], metric: str, arm: str, number: int) -> Series:
    """The seeds of an arm, and their mean a little to the right of them."""

    def is_it(row: Mapping[str, Any]) -> bool:
        return row["metric"] == metric and row["arm"] == arm and row["round"] == LAST

    points = [Point(number, row["value"]) for row in results["values"] if is_it(row)]
    points += [Point(number + 0.18, row["mean"], _ends(row)) for row in results["means"] if is_it(row)]
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
