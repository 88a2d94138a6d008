"""Puts a report together: one HTML file that needs no network. Its Content-Security-Policy allows its own style and script only."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from loop.printing import printable
from loop.report import figures, tables
from loop.report.browsing import as_json, browser_data
from loop.report.charts import Chart
from loop.report.reading import RunView
from loop.report.signs import checks, signs
from loop.report.story import Answer, tell
from loop.wording import Table, round_name, sentence

FOLDER = Path(__file__).parent
TEMPLATE, STYLE, SCRIPT = "page.html.jinja", "page.css", "browser.js"


@dataclass(frozen=True)
class Part:
    """A part of a section. notes: (beginning, sentences). folded: tables that a reader opens."""

    title: str = ""
    notes: Sequence[tuple[str, Sequence[str]]] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.notes and not self.charts and not any(table.rows for table in (*self.tables, *self.folded))


@dataclass(frozen=True)
class Section:
    """A section of the page. `anchor` is its address in it."""

    anchor: str
    title: str
    parts: Sequence[Part]
    text: str = ""


@dataclass(frozen=True)
class Story:
    """The three answers about a run, and what its stages warn of."""

    name: str
    answers: list[Answer]
    warnings: list[str]


@dataclass(frozen=True)
class Page:
    """What the template is given. samples: the data of the browser; None leaves it out."""

    kind: str
    title: str
    lead: list[str]
    stories: list[Story]
    sections: list[Section]
    samples: dict[str, Any] | None = None
    footer: str = "Intervals and standard errors are those of the held-out prompts of one run. They say nothing about another seed."


def runs_page(runs: Sequence[RunView], limit: int) -> Page:
    """The page of one run, or of two runs side by side. limit: how many answers the browser holds; with 0 there is no browser."""
    lead = [line for run in runs for line in _lead(run, len(runs) > 1)]
    stories = [Story(run.name, tell(run), tables.warnings(run)) for run in runs]
    kind = "Report of a run" if len(runs) == 1 else "Two runs compared"
    samples = browser_data(runs, limit) if limit else {}
    title = " and ".join(run.name for run in runs)
    return Page(kind, title, lead, stories, _sections(runs), samples if samples.get("cards") else None)


def render(page: Page) -> str:
    """The page as HTML. Every text in it is escaped, and control characters are shown as escapes."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_visible, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    style, script = (Markup((FOLDER / name).read_text(encoding="utf-8")) for name in (STYLE, SCRIPT))
    return environment.from_string((FOLDER / TEMPLATE).read_text(encoding="utf-8")).render(
        kind=page.kind,
        title=page.title,
        lead=page.lead,
        stories=page.stories,
        sections=page.sections,
        samples=as_json(page.samples) if page.samples else "",
        footer=page.footer,
        style=style,
        script=script,
        style_hash=csp_hash(style),
        script_hash=csp_hash(script),
    )


def csp_hash(text: str) -> str:
    """The hash by which a Content-Security-Policy allows an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _visible(value: Any) -> Any:
    """What is put into the page: texts without characters that hide or turn what follows. Markup is ours, and stays."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _lead(run: RunView, is_named: bool) -> list[str]:
    """What the run is, in one or two lines."""
    config = run.config
    parts = [f"{run.state.state}, {len(run.evaluated)} of {run.state.num_rounds} rounds evaluated"]
    for name, words in (("base.model", "base"), ("data.source", "data"), ("labeler.kind", "labels"), ("trainer", "trainer")):
        if config.get(name) is not None:
            parts.append(f"{words}: {tables.shown(config[name])}")
    if run.state.stage("reward", 0).metrics.get("start") == "pmp":
        parts.append("reward models: from preference-model pretraining")
    if "seed" in config:
        parts.append(f"seed {config['seed']}")
    return [f"{run.name} – {'; '.join(parts)}." if is_named else f"{sentence('; '.join(parts))}."] + (
        [run.state.message] if run.state.message else []
    )


def _sections(runs: Sequence[RunView]) -> list[Section]:
    """All sections that have something to show."""
    together = len(runs) > 1

    def of_each(make: Callable[[RunView], Part]) -> list[Part]:
        return [replace(make(run), title=run.name if together else "") for run in runs]

    differences = Part(tables=[tables.config_differences(runs)]) if together else Part()
    found = [
        Section("differences", "What differs", [differences], "Settings that the two runs do not share."),
        Section(
            "rounds",
            "Round by round",
            [*of_each(lambda run: Part(tables=[tables.rounds(run), tables.win_rates(run)])), Part(charts=figures.by_round(runs))],
            ROUNDS,
        ),
        Section(
            "cheating", "Signs of cheating", of_each(lambda run: Part(tables=[tables.verdicts(run)], notes=signs_by_round(run))), SIGNS
        ),
        Section("rules", "Rules", [Part(charts=figures.rules(runs)), *of_each(lambda run: Part(folded=[tables.rule_rates(run)]))], RULES),
        Section("training", "Training of the policy", [Part(charts=figures.training(runs))]),
        Section(
            "reward",
            "Reward models",
            [Part(charts=figures.reward_models(runs)), *of_each(lambda run: Part(folded=[tables.accuracy_by_generation(run)]))],
            REWARD,
        ),
        Section(
            "selectors", "Selectors", [Part(charts=figures.selectors(runs)), *of_each(lambda run: Part(folded=[tables.selectors(run)]))]
        ),
        Section("data", "Data and labels", of_each(_data)),
        Section("costs", "Time and memory", of_each(lambda run: Part(charts=figures.costs(run), folded=[tables.times(run)]))),
        Section("settings", "Settings", of_each(lambda run: Part(folded=[tables.settings(run)]))),
    ]
    shown = [Section(s.anchor, s.title, [part for part in s.parts if not part.is_empty], s.text) for s in found]
    return [section for section in shown if section.parts]


def signs_by_round(run: RunView) -> list[tuple[str, list[str]]]:
    """The signs of over-optimization of every evaluated round."""
    return [(sentence(round_name(r)), [sign.text for sign in signs(run, r)] or ["No sign."]) for r in run.evaluated if checks(run, r)]


def _data(run: RunView) -> Part:
    """Mixtures, labels and the ledger of a run."""
    return Part(
        charts=[*figures.mixtures(run), *figures.labels(run)],
        tables=tables.ledgers(run)[:1],
        folded=[tables.label_budget(run), *tables.ledgers(run)[1:]],
    )


SIGNS = (
    "A policy that is trained too far pleases its reward model without being better. "
    "docs/report.md says what is looked at, and from where on it counts."
)
ROUNDS = "In tables, ± is one standard error. In charts, bars are 95% intervals."
RULES = "A rule whose rate climbs is what the policy has found to please its reward model. docs/rules.md says what each rule measures."
REWARD = (
    "Accuracy falls from generation to generation in a healthy loop, because the policy's answers become harder to tell apart. "
    "At 50%, the dotted line, a reward model knows nothing."
)
