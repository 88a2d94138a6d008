"""Which charts a report has. Each takes one run, or two runs to be drawn together; the second one is dashed."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from loop.report.charts import Chart, Point, Series, bar_chart, line_chart
from loop.report.reading import RunView, numbers, rates, win_rate_over_sft, win_rates
from loop.round import KEEP, LABEL, POLICY, RETRAIN, SELECT
from loop.store.estimates import Estimate, estimate, estimates, is_number

SFT = -1
"""The place of the SFT policy on an axis of rounds."""
SHOWN_RULES = 7
RULE_MATTERS = 0.005
"""Rules that never fire more often than this are not drawn."""
MIB = 2**20


def by_round(runs: Sequence[RunView]) -> list[Chart]:
    """What the policy does, round by round."""
    best_of = "Several answers to each held-out prompt, and one of them chosen. oracle: by the true reward itself."
    charts = [
        _policy(runs, "True reward", "On held-out prompts that nothing was trained on.", "gold", "log-odds"),
        _over_kl(runs),
        *_win_rates(runs),
        _policy(
            runs,
            "Score over the SFT policy",
            "By the reward model of the same round. PPO raises it by design, and rounds cannot be compared.",
            "proxy_gain",
            "standard deviations",
            level=0.0,
        ),
        _policy(runs, "KL from the SFT policy", "How far the policy has moved.", "kl", "nats per response"),
        _policy(runs, "Length", "Longer answers are often liked without being better.", "length", "tokens"),
        _lines(runs, "Best of several answers", best_of, lambda run, r: _plain_ways(run.policy(r).get("best_of")), "log-odds"),
    ]
    return _drawn(charts)


def rules(runs: Sequence[RunView]) -> list[Chart]:
    """How often each rule fires."""
    note = "Share of answers to held-out prompts. Rules that hardly ever fire are left out here; the table has them."
    names = _frequent_rules(runs)
    found = _lines(runs, "Rule rates", note, lambda run, r: _rates(run, r, names), "answers", percent=True, with_sft=True)
    return _drawn([found])


def training(runs: Sequence[RunView]) -> list[Chart]:
    """What PPO saw: score and KL of each update, the rounds one after the other."""
    note = "The rounds stand one after the other."
    score, kl = "objective/scores", "objective/kl"
    return _drawn(
        [
            line_chart("Score while training", note, _updates(runs, score), "update", "score"),
            line_chart("KL while training", note, _updates(runs, kl), "update", "nats per response"),
        ]
    )


def reward_models(runs: Sequence[RunView]) -> list[Chart]:
    """Accuracy of the reward models."""
    fresh = "On this round's held-out labels, before and after they were learned from, and on the original held-out pairs."
    by_generation = "The reward model that was retrained in the last round, on the held-out labels of each generation."
    return _drawn(
        [
            _lines(runs, "Reward model by round", fresh, _accuracies, "accuracy", percent=True, level=0.5),
            _by_generation(runs, by_generation),
        ]
    )


def selectors(runs: Sequence[RunView]) -> list[Chart]:
    """The selectors side by side."""
    note = "Share of this round's held-out labels that each selector orders right. longest and random are the baselines."
    return _drawn(
        [_lines(runs, "Selectors", note, lambda run, r: estimates(run.metrics(SELECT.name, r).get("judged")), "accuracy", True, 0.5)]
    )


def mixtures(run: RunView) -> list[Chart]:
    """What the reward models and the later policies are trained on, by the round that wrote it."""
    note = "Comparisons that the reward model of the next round was trained on, by origin."
    kept = "Answers that the selector has kept as training data, by the round that wrote them."
    return _drawn(
        [
            _stack(run, "Mixture", note, lambda r: run.metrics(RETRAIN.name, r).get("mixture"), "comparisons"),
            _stack(run, "Kept answers", kept, lambda r: run.metrics(KEEP.name, r).get("kept_by_round"), "answers"),
        ]
    )


def labels(run: RunView) -> list[Chart]:
    """What the labels of each round were for."""

    def parts(r: int) -> dict[str, float]:
        metrics = run.metrics(LABEL.name, r)
        held_out = metrics.get("heldout")
        if not is_number(metrics.get("comparisons")) or not is_number(held_out):
            return {}
        trained_on = {"trained on": metrics["comparisons"] - held_out, "only judge": held_out}
        return trained_on | ({"win rates": wins} if is_number(wins := metrics.get("win_comparisons")) else {})

    return _drawn([_stack(run, "Labels", "Comparisons from the labeler in each round.", parts, "comparisons")])


def costs(run: RunView) -> list[Chart]:
    """Time by stage, and memory by owner."""

    def seconds(r: int) -> dict[str, float]:
        return {name: row.seconds for name, row in run.state.rows(r).items() if row.seconds is not None}

    def memory(r: int) -> dict[str, float]:
        return {name: value / MIB for name, value in numbers(run.metrics(POLICY.name, r).get("memory")).items() if name != "peak"}

    return _drawn(
        [
            _stack(run, "Time by stage", "Seconds of each stage.", seconds, "seconds"),
            _stack(run, "Memory of the policy's training", "Held at the end, by owner, without libraries.", memory, "MiB"),
        ]
    )


def _drawn(charts: Iterable[Chart | None]) -> list[Chart]:
    return [chart for chart in charts if chart]


def _policy(runs: Sequence[RunView], title: str, note: str, metric: str, unit: str, level: float | None = None) -> Chart | None:
    """One metric of each round's policy, beginning with the SFT policy."""

    def read(run: RunView, r: int | None) -> dict[str, Estimate]:
        found = estimate(run.policy(r).get(metric))
        return {"": found} if found else {}

    return _lines(runs, title, note, read, unit, level=level, with_sft=True)


def _lines(
    runs: Sequence[RunView],
    title: str,
    note: str,
    read: Callable[[RunView, int | None], dict[str, Estimate]],
    unit: str,
    percent: bool = False,
    level: float | None = None,
    with_sft: bool = False,
) -> Chart | None:
    """A line for each name that `read` finds, by round. The runs have a color each where there is one line to a run."""
    series, names = [], []
    for number, run in enumerate(runs):
        found: dict[str, list[Point]] = {}
        for r in (None, *run.rounds) if with_sft else run.rounds:
            for name, value in read(run, r).items():
                found.setdefault(name, []).append(Point(SFT if r is None else r, value.mean, value.interval))
        names += [name for name in found if name not in names]
        for name, points in found.items():
            colour = number if name == "" else names.index(name)
            series.append(Series(_legend(name, run, runs), points, colour, number > 0))
    places = sorted({int(point.x) for one in series for point in one.points})
    ticks = [(float(place), "SFT" if place == SFT else str(place)) for place in places]
    return line_chart(title, note, series, "round", unit, ticks if len(ticks) <= 12 else None, level, percent)


def _legend(name: str, run: RunView, runs: Sequence[RunView]) -> str:
    parts = [name] if len(runs) == 1 else [name, run.name]
    return " · ".join(part.replace("_", " ") if part == name else part for part in parts if part)


def _over_kl(runs: Sequence[RunView]) -> Chart | None:
    """True reward, or the win rate where there is none, against the square root of KL."""
    series, unit = [], "log-odds"
    for number, run in enumerate(runs):
        points = []
        for r in (None, *run.evaluated):
            metrics = run.policy(r)
            gold, kl = estimate(metrics.get("gold")), estimate(metrics.get("kl"))
            if gold and (kl or r is None):
                points.append(Point(math.sqrt(max(kl.mean, 0.0)) if kl else 0.0, gold.mean, gold.interval, "SFT" if r is None else str(r)))
        if len(points) > 1:
            series.append(Series(run.name, points, number, number > 0, joined=False, is_path=True))
    note = "Each point is a round. A policy that moves too far loses true reward (arXiv 2210.10760)."
    return line_chart("True reward against distance", note, series, "√KL from the SFT policy", unit)


def _win_rates(runs: Sequence[RunView]) -> Iterator[Chart | None]:
    """Win rates by round, and against the square root of KL."""
    note = "How often the labeler prefers the policy's answer, on held-out prompts that nothing was trained on. Ties count as half."
    yield _lines(runs, "Win rate", note, lambda run, r: win_rates(run.policy(r)), "preferred", True, 0.5)
    series = []
    for number, run in enumerate(runs):
        points = []
        for r in run.evaluated:
            kl, rate = estimate(run.policy(r).get("kl")), win_rate_over_sft(run.policy(r))
            if kl and rate:
                points.append(Point(math.sqrt(max(kl.mean, 0.0)), rate.mean, rate.interval, str(r)))
        series.append(Series(run.name, points, number, number > 0, joined=False, is_path=True))
    yield line_chart("Win rate against distance", "Over the SFT policy.", series, "√KL from the SFT policy", "preferred", None, 0.5, True)


def _plain_ways(value: Any) -> dict[str, Estimate]:
    """The ways of choosing among several answers, without what compares two of them."""
    return {name: found for name, found in estimates(value).items() if "_over_" not in name and name != "normalized_gain"}


def _frequent_rules(runs: Sequence[RunView]) -> list[str]:
    """The rules that fire most often in some round."""
    highest: dict[str, float] = {}
    for run in runs:
        for r in (None, *run.evaluated):
            for name, rate in rates(run.policy(r)).items():
                highest[name] = max(highest.get(name, 0.0), rate)
    frequent = [name for name in sorted(highest, key=lambda name: -highest[name]) if highest[name] > RULE_MATTERS]
    return frequent[:SHOWN_RULES]


def _rates(run: RunView, r: int | None, names: Sequence[str]) -> dict[str, Estimate]:
    found = rates(run.policy(r))
    return {name: Estimate(found[name]) for name in names if name in found}


def _accuracies(run: RunView, r: int | None) -> dict[str, Estimate]:
    metrics = run.metrics(RETRAIN.name, r)
    named = {
        "fresh labels, before": metrics.get("accuracy_fresh_before"),
        "fresh labels, after": metrics.get("accuracy_fresh"),
        "original pairs": metrics.get("accuracy_heldout"),
    }
    return {name: found for name, value in named.items() if (found := estimate(value))}


def _by_generation(runs: Sequence[RunView], note: str) -> Chart | None:
    """The accuracy of the newest reward model by the generation of the comparisons, beside that of the one that PPO used last."""
    series = []
    for number, run in enumerate(runs):
        last = run.policy(run.evaluated[-1]) if run.evaluated else {}
        for colour, (name, metric) in enumerate((("used by PPO", "reward_accuracy"), ("retrained", "retrained_accuracy"))):
            points = [
                Point(SFT if origin == "original" else int(origin.rpartition("-")[2]), value.mean, value.interval)
                for origin, value in estimates(last.get(metric)).items()
                if origin == "original" or origin.rpartition("-")[2].isdecimal()
            ]
            series.append(Series(_legend(name, run, runs), points, colour, number > 0))
    places = sorted({int(point.x) for one in series for point in one.points})
    ticks = [(float(place), "orig." if place == SFT else str(place)) for place in places]
    return line_chart("Reward model by generation", note, series, "round that wrote the answers", "accuracy", ticks[:12], 0.5, True)


def _updates(runs: Sequence[RunView], metric: str) -> list[Series]:
    """One metric of all PPO updates. The rounds are told apart by color where there is one run."""
    series = []
    for number, run in enumerate(runs):
        start = 0
        for r in run.rounds:
            log = [row[metric] for row in run.rows(POLICY.name, r, "metrics.jsonl") if is_number(row.get(metric))]
            points = [Point(start + i, value) for i, value in enumerate(_smooth(log))]
            colour = r if len(runs) == 1 else number
            if len(runs) == 1 or r == run.rounds[0]:
                series.append(Series(f"round {r}" if len(runs) == 1 else run.name, points, colour, number > 0))
            else:
                series[-1] = Series(series[-1].name, [*series[-1].points, *points], colour, number > 0)
            start += len(log)
    return series


def _smooth(values: Sequence[float], width: int = 5) -> list[float]:
    """The mean of each value and up to four before it."""
    return [sum(values[max(0, i - width + 1) : i + 1]) / min(i + 1, width) for i in range(len(values))]


def _stack(run: RunView, title: str, note: str, read: Callable[[int], Any], unit: str) -> Chart | None:
    """Stacked bars by round of the counts that `read` finds."""
    found = {r: numbers(read(r)) for r in run.rounds}
    rounds = [r for r in run.rounds if found[r]]
    names = list(dict.fromkeys(name for r in rounds for name in found[r]))
    parts = [(name, [float(found[r].get(name, 0)) for r in rounds]) for name in names]
    return bar_chart(title, note, parts, [str(r) for r in rounds], "round", unit)
