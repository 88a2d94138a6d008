"""The tables of an experiment, from what `results.py` has found: on the terminal, and as Markdown in `results.md`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loop.experiments.results import LAST
from loop.store.artifacts import write_synced
from loop.wording import Table

MISSING = "-"
NOTE = (
    "± is the standard error of the mean over seeds. A difference is taken seed by seed; its interval is the 95 % interval of Student's t. "
    "KL is that of the two arms' policies, in nats per response."
)


def make_tables(results: Mapping[str, Any]) -> list[Table]:
    """The means at the last round, those by round where they were asked for, and the differences."""
    metrics = list(dict.fromkeys(row["metric"] for row in results["means"]))
    means = {(row["arm"], row["metric"], row["round"]): row for row in results["means"]}
    arms = results["arms"]
    rows = [[name, str(arms[name]["rounds"]), *(_mean(means.get((name, metric, LAST))) for metric in metrics)] for name in arms]
    tables = [Table(f"After the last round, mean over {_seeds(results)}", ["arm", "rounds", *metrics], rows)]
    for metric in metrics:
        rounds = sorted({at for _, of, at in means if of == metric and at != LAST})
        if rounds:
            rows = [[name, *(_mean(means.get((name, metric, at))) for at in rounds)] for name in arms]
            tables.append(Table(f"{metric} by round", ["arm", *(f"round {at}" for at in rounds)], rows))
    if results["differences"]:
        headers = ["difference", "metric", "round", "mean", "standard error", "95 % interval", "positive", "KL of both"]
        tables.append(
            Table(f"Differences, paired by seed, over {_seeds(results)}", headers, [_difference(r) for r in results["differences"]])
        )
    return tables


def write_markdown(folder: Path, results: Mapping[str, Any]) -> None:
    """Write `results.md`."""
    lines = [f"# {results['experiment']}", "", "```console", f"$ {results['command']}", "```", ""]
    lines += [f"Seeds: {', '.join(map(str, results['seeds']))}. {NOTE}", ""]
    arms = [[name, str(arm["rounds"]), changes(arm)] for name, arm in results["arms"].items()]
    for table in [Table("Arms", ["arm", "rounds", "settings"], arms), *make_tables(results)]:
        lines += [f"## {table.title}", "", _row(table.headers), _row(["---", *["---:"] * (len(table.headers) - 1)])]
        lines += [*map(_row, table.rows), ""]
    write_synced(folder / "results.md", "\n".join(lines))


def changes(arm: Mapping[str, Any]) -> str:
    """What an arm changes, without its number of rounds."""
    return "; ".join(f"{key}={value}" for key, value in arm["changes"].items() if key != "rounds") or "the base"


def _row(cells: list[str]) -> str:
    """A row of Markdown. A setting may be a text of several lines, such as `judge.template`; a row has one."""
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


def _seeds(results: Mapping[str, Any]) -> str:
    done, all_seeds = len(results["seeds"]), len(results["all_seeds"])
    return f"{done} seed{'s' if done > 1 else ''}" if done == all_seeds else f"{done} of {all_seeds} seeds"


def _mean(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return MISSING
    error = row["standard_error"]
    return _number(row["mean"]) if error is None else f"{_number(row['mean'])} ± {_number(error)}"


def _difference(row: Mapping[str, Any]) -> list[str]:
    """One row of the table of differences."""
    low, high = row["low"], row["high"]
    return [
        f"{row['arm']} - {row['minus']}",
        row["metric"],
        str(row["round"]),
        _number(row["mean"], "+"),
        MISSING if row["standard_error"] is None else _number(row["standard_error"]),
        MISSING if low is None else f"{_number(low, '+')} to {_number(high, '+')}",
        f"{row['positive']} of {row['count']}",
        " and ".join(MISSING if kl is None else f"{kl:.2f}" for kl in row["kl"].values()),
    ]


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if abs(value) < 1000 else f"{value:{sign}.4g}"
