"""From a YAML file and KEY=VALUE words to one RunConfig, or to one clear message. Must never import an ML library."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from configs.errors import UserError
from configs.schema import RunConfig

PRESETS = Path(__file__).parent


def load_config(file: str | None = None, overrides: Sequence[str] = (), **fixed: Any) -> RunConfig:
    """The embedded default, changed by `file`, then by `overrides` ("ppo.num_updates=10"), then by `fixed` top-level keys.

    Raises UserError for a missing or malformed file, an unknown key (with the nearest legal name) or a bad value.
    """
    values = read_yaml(_find(file)) if file else {}
    where = file or "the embedded default"
    for word in overrides:
        _apply(values, word)
    values.update({key: value for key, value in fixed.items() if value is not None})
    return validate(values, where)


def validate(values: dict[str, Any], where: str) -> RunConfig:
    """Values as a RunConfig. Raises UserError naming the first thing that is wrong."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error), where, "mend the value, or see configs/schema.py for what is allowed") from None


def dump_config(config: RunConfig) -> str:
    """Every value, resolved, as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError when it is not one."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UserError(f"cannot read the config file: {error.strerror}", str(path), "check the path after --config") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"the config file is not valid YAML: {' '.join(str(error).split())}", str(path), "mend the file") from None
    if not isinstance(values, dict):
        raise UserError("the config file must be a mapping of keys to values", str(path), "see configs/embedded.yaml")
    return values


def _find(file: str) -> Path:
    """A path as given, or the name of a preset."""
    path = Path(file)
    preset = PRESETS / f"{file}.yaml"
    if not path.exists() and preset.exists():
        return preset
    if not path.exists():
        names = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
        raise UserError("the config file does not exist", str(path), f"give a path, or a preset's name: {names}")
    return path


def _apply(values: dict[str, Any], word: str) -> None:
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise UserError(f"not a KEY=VALUE setting: {word!r}", "the command line", "write for example ppo.num_updates=10")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    *sections, last = key.split(".")
    short_form = {"base": "model", "data": "source"}
    for section in sections:
        inner = values.get(section, {})
        if not isinstance(inner, dict):
            inner = {short_form[section]: inner} if section in short_form else {}
        values[section] = values = inner
    if not sections and last in short_form and isinstance(values.get(last), dict) and not isinstance(value, dict):
        values[last][short_form[last]] = value
    else:
        values[last] = value


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"unknown config key {key!r}{_nearest(path)}"
    message = first["msg"].removeprefix("Value error, ")
    return f"bad value for {key}: {message} (got {first['input']!r})" if key else message


def _nearest(path: list[str]) -> str:
    """ ", did you mean ...?" from all legal names, preferring those in the same section."""
    legal = _names(RunConfig)
    key = ".".join(path)
    same_section = [name for name in legal if name.rsplit(".", 1)[0] == key.rsplit(".", 1)[0] and "." in name]
    by_last_word = {name.rsplit(".", 1)[-1]: name for name in legal}
    for candidates in (same_section, legal):
        if match := difflib.get_close_matches(key, candidates, n=1, cutoff=0.7):
            return f", did you mean {match[0]!r}?"
    if match := difflib.get_close_matches(path[-1], list(by_last_word), n=1, cutoff=0.6):
        return f", did you mean {by_last_word[match[0]]!r}?"
    return ""


def _names(model: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += _names(field.annotation, f"{prefix}{name}.")
    return names
