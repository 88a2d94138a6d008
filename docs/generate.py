"""Writes the pages that come from the code: `python -m docs.generate`. A test fails while one of them is not current.

docs/configuration.md     from the settings in configs
docs/metrics.md           from the metrics in loop/store/measures.py
docs/grafana/loop.json    from docs/grafana_dashboard.py
"""

import ast
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from configs.fields import Section
from configs.loading import PRESETS
from configs.schema import RunConfig
from configs.views import is_run_time
from docs import grafana_dashboard
from loop.store.measures import COUNTERS, HEADLINES, MEASURES, RUNNING, Measure

FOLDER = Path(__file__).parent
SOURCE = "Source: "
SETTINGS = """# Configuration

<!-- Written by `python -m docs.generate` from the settings in configs. Change the text there. -->

Every setting of a run, with its type, default and meaning. You can give settings in three ways. A later one replaces an earlier one:

1. a preset: `--config hh-harmless`;
2. a YAML file of your own: `--config my.yaml`;
3. on the command line: `KEY=VALUE`, for example `ppo.num_updates=10` or `data='[a.jsonl, b.jsonl]'`.

`base=X` is short for `base.model=X`, and `data=X` is short for `data.source=X`. A misspelled key is refused, and the message names the
nearest valid one. The run writes all values to `config.yaml` in its directory.

A setting marked **run time** says how a run is computed, not what is computed. You may change it between two starts of the same run. Every
other setting defines the run: if you change one, `run` refuses to resume and names it. To start a new run from it, add `--fork NEW`.

The *source* is the paper that describes the method, or from which the default value comes.
"""


METRICS = """# Metrics

<!-- Written by `python -m docs.generate` from loop/store/measures.py. Change the text there. -->

This page lists every metric that a stage can report, with its meaning and unit, and says whether higher or lower is better. The line of
a finished stage shows the most important ones. `loop status --json` has all of them. `metrics.jsonl` in a stage's directory has the
metrics of each training step.

A metric named `X_over_Y` is a paired difference. For example, `gold_over_sft` is the policy's gold minus the gold of the SFT policy, prompt
by prompt. Most metrics are objects with `mean` (or `accuracy`), `standard_error` and the number of items.
"""


WATCHED = """## Found out while a stage runs

Ray and the trackers also have these metrics ([Watching a run](watching.md)). No stage reports them.
"""


def main() -> None:
    """Write all pages."""
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"{FOLDER / name} is written\n")


def pages() -> dict[str, str]:
    """Return the text of each generated page by its file name."""
    return {"configuration.md": settings(), "metrics.md": metrics(), "grafana/loop.json": grafana_dashboard.text()}


def metrics() -> str:
    """Return the page of metrics."""
    lines = ["## Shown when a stage is finished", "", "| stage | metrics |", "| --- | --- |"]
    lines += [f"| {stage} | {', '.join(f'`{name}`' for name in names)} |" for stage, names in HEADLINES.items()]
    watched = [WATCHED, *_table_of(RUNNING | COUNTERS)]
    return "\n".join([METRICS, "## All metrics", "", *_table_of(MEASURES), "", *lines, "", *watched, ""])


def _table_of(measures: dict[str, Measure]) -> list[str]:
    rows = [f"| `{name}` | {m.meaning} | {m.unit} | {m.better or ''} |" for name, m in measures.items()]
    return ["| metric | meaning | unit | better |", "| --- | --- | --- | --- |", *rows]


def settings() -> str:
    """Return the page of settings."""
    parts = [SETTINGS, _presets()]
    general = [name for name, field in RunConfig.model_fields.items() if not _is_section(field.annotation)]
    parts.append(_group("General", "", RunConfig, general, prefix=""))
    for name, field in RunConfig.model_fields.items():
        if _is_section(field.annotation):
            section: type[Section] = field.annotation  # type: ignore[assignment]
            all_run_time = is_run_time(RunConfig(), name)
            parts.append(_group(f"`{name}`", _one_line(section.__doc__), section, list(section.model_fields), f"{name}.", all_run_time))
            parts += [_items(f"{name}.{of}", item) for of, item in _lists_of_sections(section)]
    return "\n".join(parts)


def descriptions(section: type[Section]) -> dict[str, str]:
    """Return the text below each field of a section.

    A field that the section inherits has the text of its base class, unless it has its own. A field without any text is missing.
    """
    found: dict[str, str] = {}
    for cls in reversed(section.__mro__):
        if issubclass(cls, Section):
            found |= _own_descriptions(cls)
    return {name: text for name, text in found.items() if name in section.model_fields}


def _own_descriptions(cls: type[Section]) -> dict[str, str]:
    tree = ast.parse(Path(inspect.getfile(cls)).read_text(encoding="utf-8"))
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls.__name__).body
    found = {}
    for field, text in zip(body, body[1:], strict=False):
        is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = _one_line(text.value.value)  # type: ignore[attr-defined]
    return found


def _presets() -> str:
    rows = [f"- [`{path.stem}`](../configs/{path.name}): {_first_comment(path)}" for path in sorted(PRESETS.glob("*.yaml"))]
    return "\n".join(["## Presets", "", *rows, ""])


def _first_comment(preset: Path) -> str:
    """Return the first line of a preset, which is a comment that says what the preset is for."""
    return preset.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def _items(name: str, item: type[Section]) -> str:
    """Return the settings of each item of a list."""
    return _group(f"Each item of `{name}`", _one_line(item.__doc__), item, list(item.model_fields), prefix="")


def _lists_of_sections(section: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    for name, field in section.model_fields.items():
        if get_origin(field.annotation) is list and _is_section(item := get_args(field.annotation)[0]):
            yield name, item


def _group(title: str, about: str, section: type[Section], names: list[str], prefix: str, all_run_time: bool = False) -> str:
    texts, schema = descriptions(section), section.model_json_schema()["properties"]
    rows = [f"## {title}", ""]
    if about:
        rows += [about, ""]
    if all_run_time:
        rows += ["All of these are **run time** settings.", ""]
    rows += ["| setting | type | default | meaning | source |", "| --- | --- | --- | --- | --- |"]
    for name in names:
        field = section.model_fields[name]
        meaning, _, source = texts[name].replace("None", "`null`").partition(SOURCE)
        if is_run_time(section.model_construct(), name):
            meaning = f"**Run time.** {meaning}"
        cells = (
            f"`{prefix}{name}`",
            type_in_words(schema[name]),
            "must be given" if field.is_required() else _default(field.default, schema[name]),
            meaning.strip(),
            source.removesuffix("."),
        )
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*rows, ""])


def _default(value: Any, schema: dict[str, Any]) -> str:
    """Return a default as you would write it on the command line. A list of everything that has a name is not written out."""
    if isinstance(value, list) and len(value) > 1:
        named = {choice for choice in _choices(schema["items"]) if choice.startswith("`")}
        if {f"`{name}`" for name in value} == named:
            return "all of these"
    if isinstance(value, str) and "\n" in value:
        return "[a text](../configs/endpoints.py)"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def type_in_words(schema: dict[str, Any]) -> str:
    """Return the JSON schema of one setting in plain words, for example "whole number > 0 or null"."""
    *first, last = _choices(schema)
    return f"{', '.join(first)} or {last}" if first else last


def _choices(schema: dict[str, Any]) -> list[str]:
    """Return what a value may be: legal values, and kinds of values."""
    if "anyOf" in schema:
        return [choice for kind in schema["anyOf"] for choice in _choices(kind)]
    if "enum" in schema or "const" in schema:
        return [f"`{value}`" for value in schema.get("enum", [schema.get("const")])]
    if schema["type"] == "array":
        return ["list of groups of settings" if "$ref" in schema["items"] else f"list of {type_in_words(schema['items'])}"]
    if schema["type"] == "object":
        return [f"mapping of names to {type_in_words(schema['additionalProperties'])}"]
    if "pattern" in schema:
        return ["a function of yours"]
    words = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "string": "text", "null": "`null`"}
    return [" ".join([words[schema["type"]], *_limits(schema)])]


def _limits(schema: dict[str, Any]) -> Iterator[str]:
    if "minimum" in schema and "maximum" in schema:
        yield f"from {schema['minimum']:g} to {schema['maximum']:g}"
        return
    limits = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    found = [f"{sign} {schema[name]:g}" for name, sign in limits.items() if name in schema]
    if found:
        yield " and ".join(found)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    main()
