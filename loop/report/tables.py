"""The tables of a report: text in rows, which the template shows as they are."""

from collections.abc import Iterator, Sequence

from loop.ledger import run_ledger
from loop.report import reading
from loop.report.reading import WINS, RunView, numbers, rates
from loop.report.signs import sign_name, verdict
from loop.round import LABEL, POLICY, RETRAIN, SELECT
from loop.store.estimates import Estimate, estimate, estimates, is_number
from loop.store.layout import stage_name
from loop.store.measures import warning_lines
from loop.wording import Table, round_name
from rewards.curation import ledger as original

MISSING = "–"
RUN_NAMES = {"name"}
"""Settings that differ between any two runs."""


def rounds(run: RunView) -> Table:
    """One row for each policy."""
    headers = ["policy", "true reward", "over SFT", "KL", "length", "accuracy on fresh labels", "minutes"]
    rows = []
    for r in (None, *run.rounds):
        metrics = run.policy(r)
        seconds = [row.seconds for at, _, row in run.state.stages() if at == r and row.seconds is not None]
        named = [metrics.get(name) for name in ("gold", "gold_over_sft", "kl", "length")]
        fresh = run.metrics(RETRAIN.name, r).get("accuracy_fresh")
        cells = [cell(estimate(value), "+.2f" if number == 1 else ".2f") for number, value in enumerate(named)]
        rows.append(["SFT" if r is None else f"round {r}", *cells, cell(estimate(fresh), ".0%"), f"{sum(seconds) / 60:.1f}"])
    return without_empty(Table("Rounds at a glance", headers, rows))


def rule_rates(run: RunView) -> Table:
    """The rate of every rule, by policy."""
    found = {r: rates(run.policy(r)) for r in (None, *run.evaluated)}
    found = {r: by_rule for r, by_rule in found.items() if by_rule}
    names = list(dict.fromkeys(name for by_rule in found.values() for name in by_rule))
    headers = ["rule", *("SFT" if r is None else f"round {r}" for r in found)]
    rows = [[name, *(f"{by_rule[name]:.1%}" if name in by_rule else MISSING for by_rule in found.values())] for name in names]
    return Table("Rule rates", headers, rows)


def verdicts(run: RunView) -> Table:
    """What the run's own rule says of each round, and each of its signs: the value, the limit, and whether it fires."""
    found = {r: own for r in run.evaluated if (own := verdict(run, r))}
    names = list(dict.fromkeys(name for own in found.values() for name in own.signs))
    rows = [["verdict", *(own.word for own in found.values())]] if found else []
    rows += [[sign_name(name), *(_sign(own.signs.get(name)) for own in found.values())] for name in names]
    return Table("The run's own rule: value / limit of each sign", ["", *(round_name(r) for r in found)], rows)


def _sign(found: tuple[float, float, bool] | None) -> str:
    if found is None:
        return MISSING
    value, limit, fires = found
    return f"{'fires: ' if fires else ''}{value:.2f} / {limit:.2f}"


def win_rates(run: RunView) -> Table:
    """How often each round's policy is preferred, how often both are as good, and how far the raters agree."""
    headers = ["policy", *WINS.values(), "ties with SFT", "raters", "agreement (alpha)"]
    rows = []
    for r in run.evaluated:
        metrics = run.policy(r)
        rates = reading.win_rates(metrics)
        ties, agreement = estimates(metrics.get("win_ties")), estimates(metrics.get("win_agreement"))
        others = [cell(ties.get("sft"), ".0%"), cell(agreement.get("raters"), ".0f"), cell(agreement.get("alpha"), ".2f")]
        rows.append([round_name(r), *(cell(rates.get(name), ".0%") for name in WINS.values()), *others])
    table = without_empty(Table("Win rates: how often each policy is preferred", headers, rows))
    return table if len(table.headers) > 1 else table._replace(rows=[])


def accuracy_by_generation(run: RunView) -> Table:
    """The accuracy of each round's reward model, by the generation of the comparisons. It is the one that PPO used."""
    found = {r: estimates(run.policy(r).get("reward_accuracy")) for r in run.evaluated}
    origins = list(dict.fromkeys(name for by_origin in found.values() for name in by_origin))
    rows = [[f"round {r}", *(cell(by_origin.get(name), ".0%") for name in origins)] for r, by_origin in found.items() if by_origin]
    return Table("Accuracy of each round's reward model, by origin of the comparisons", ["reward model", *origins], rows)


def selectors(run: RunView) -> Table:
    """The accuracy of each selector, by round."""
    found = {r: estimates(run.metrics(SELECT.name, r).get("judged")) for r in run.rounds}
    found = {r: by_name for r, by_name in found.items() if by_name}
    names = list(dict.fromkeys(name for by_name in found.values() for name in by_name))
    rows = [[name, *(cell(by_name.get(name), ".0%") for by_name in found.values())] for name in names]
    return Table("Accuracy of each selector on held-out labels", ["selector", *(f"round {r}" for r in found)], rows)


def label_budget(run: RunView) -> Table:
    """What was labeled in each round, and what the labels rest on."""
    names = {
        "comparisons": "comparisons",
        "heldout": "held out",
        "win_comparisons": "for win rates",
        "ties": "ties",
        "raters": "raters",
        "rater_alpha": "agreement (alpha)",
        "late": "late",
        "judge_replies": "judge's replies",
        "judge_cost": "judge's cost",
    }
    rows = []
    for r in run.rounds:
        metrics = run.metrics(LABEL.name, r)
        if metrics:
            rows.append([f"round {r}", *(number(metrics.get(name)) for name in names)])
    return without_empty(Table("Labels", ["round", *names.values()], rows))


def ledgers(run: RunView) -> list[Table]:
    """What happened to the original rows, why, and what each round has generated."""
    found = run_ledger(run.state)
    if found is None:
        return []
    generated = sorted({name for entry in found.sources.entries.values() for name in entry.generated})
    headers, rows = original.table(found.sources, generated)
    headers[5:] = [f"added in {name}" for name in generated] or headers[5:]
    title = "Original rows by source: original = removed + moved + kept; and how many of the policy's answers were added"
    tables = [Table(title, headers, rows)]
    tables.append(Table("Removed and moved, by reason", *original.reasons(found.sources)))
    headers = ["round", "samples", "held out", "labeled", "could be kept", "carried", "kept", "left out"]
    rows = [
        [a.round, *map(str, (a.samples, a.heldout_samples, a.labeled, a.candidates, a.carried, a.kept, sum(a.left_out.values())))]
        for a in found.rounds
    ]
    tables.append(Table("What each round has generated", headers, rows))
    return [table for table in tables if table.rows]


def times(run: RunView) -> Table:
    """Seconds of every stage, with the peak of memory where it was measured."""
    rows = []
    for r, name, row in run.state.stages():
        peak = numbers(row.metrics.get("memory")).get("peak") if name == POLICY.name else None
        seconds = f"{row.seconds:.1f}" if row.seconds is not None else MISSING
        rows.append([stage_name(name, r), row.state, seconds, MISSING if peak is None else f"{peak / 2**20:.0f}"])
    return Table("Every stage", ["stage", "state", "seconds", "peak MiB"], rows)


def settings(run: RunView) -> Table:
    """Every setting of a run."""
    return Table("Settings", ["setting", "value"], [[name, shown(value)] for name, value in sorted(run.config.items())])


def config_differences(runs: Sequence[RunView]) -> Table:
    """The settings that the runs do not share."""
    names = sorted({name for run in runs for name in run.config} - RUN_NAMES)
    rows = [[name, *(shown(run.config.get(name, MISSING)) for run in runs)] for name in names]
    return Table("Different settings", ["setting", *(run.name for run in runs)], [row for row in rows if len(set(row[1:])) > 1])


def warnings(run: RunView) -> list[str]:
    """The warnings of all stages, each with its stage."""
    return [f"{stage_name(name, r)}: {text.strip().removeprefix('warning: ')}" for r, name, text in _warnings(run)]


def _warnings(run: RunView) -> Iterator[tuple[int | None, str, str]]:
    for r, name, row in run.state.stages():
        for text in warning_lines(row.metrics):
            yield r, name, text


def without_empty(table: Table) -> Table:
    """The table without columns in which nothing stands."""
    kept = [i for i in range(len(table.headers)) if i == 0 or any(row[i] != MISSING for row in table.rows)]
    return Table(table.title, [table.headers[i] for i in kept], [[row[i] for i in kept] for row in table.rows])


def cell(value: Estimate | None, form: str) -> str:
    """An estimate with its standard error."""
    return MISSING if value is None else value.with_error(form)


def number(value: object) -> str:
    """A number as text."""
    if not is_number(value):
        return MISSING
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}"


def shown(value: object) -> str:
    """A setting as text, as YAML would have it."""
    if value is None:
        return "null"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else str(value)
