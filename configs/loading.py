"""Turns a YAML file and KEY=VALUE words into a RunConfig, or into one clear message. Must never import an ML library.

Values that the user gives are kept apart from the defaults (`Given`), together with the place where each one was written. Messages name
that place. When a run is resumed, every value that the user does not give comes from the run's own config.
"""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from configs.errors import UserError
from configs.explaining import explain
from configs.schema import MAPPINGS, SHORT_FORMS, RunConfig

PRESETS = Path(__file__).parent
OPTIONS = {"name": "--name", "num_rounds": "--rounds"}
"""The settings that have their own option on the command line."""
INSTEAD_OF: dict[tuple[str, ...], tuple[str, ...]] = {("data", "source"): ("data", "sources"), ("data", "sources"): ("data", "source")}
"""A setting -> the one that it takes the place of, so that a later one replaces either."""
MISSING = object()
"""Stands for a value that was not given. None cannot, because it is a valid value."""


@dataclass
class Given:
    """The values that the user has written, nested as in the schema, and the place of each one."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[tuple[str, ...], str] = field(default_factory=dict)

    def set(self, path: tuple[str, ...], value: Any, place: str) -> None:
        """Add a value. It replaces an earlier one. place: the text that messages show."""
        if path[-1:] == path and path[0] in SHORT_FORMS and not isinstance(value, dict):
            path = (*path, SHORT_FORMS[path[0]])
        self._drop(INSTEAD_OF.get(path, ()))
        values = self.values
        for section in path[:-1]:
            inner = values.get(section)
            values[section] = inner if isinstance(inner, dict) else {}
            values = values[section]
        values[path[-1]] = value
        self.places = {old: text for old, text in self.places.items() if old[: len(path)] != path} | {path: place}

    def _drop(self, path: tuple[str, ...]) -> None:
        """Forget a value, if it was given."""
        section = self.get(path[:-1], {}) if path else {}
        if isinstance(section, dict) and section.pop(path[-1] if path else "", MISSING) is not MISSING:
            self.places = {old: text for old, text in self.places.items() if old[: len(path)] != path}

    def set_words(self, words: Sequence[str]) -> None:
        """Add the KEY=VALUE words of the command line. Raises UserError for a word without a key."""
        for word in words:
            path, value = _parse_word(word)
            self.set(path, value, f"the command line: {word}")

    def get(self, path: tuple[str, ...], default: Any = None) -> Any:
        """Return a value as it was written, or `default`."""
        value: Any = self.values
        for part in path:
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value

    def place(self, path: tuple[str, ...]) -> str:
        """Return where a setting, or the group that contains it, was written. For other settings, say that the value is a default."""
        if self.get(path, MISSING) is MISSING:
            return f"{'.'.join(path)} is {_default(path)!r} by default"
        around = [self.places[path[:length]] for length in range(len(path), 0, -1) if path[:length] in self.places]
        inside = [text for other, text in self.places.items() if other[: len(path)] == path]
        return (around + inside or ["the config"])[0]

    def name(self) -> str:
        """Return the name of the run. Raises UserError if it is not a valid name."""
        return Given({"name": self.values["name"]}, self.places).resolve().name if "name" in self.values else RunConfig().name

    def over(self, config: RunConfig, place: str) -> "Given":
        """Return these values together with those of `config`, which was read from `place`. Values given here win.

        A mapping of names that is given as a whole takes the place of the old one. `ppo.penalties.empty=1` changes one name of it.
        """
        own = config.model_dump(mode="json")
        for group, name in MAPPINGS:
            if self.get((group, name), MISSING) is not MISSING and self.places.keys() & {(group,), (group, name)}:
                own[group].pop(name)
        for path, other in INSTEAD_OF.items():
            if self.get(path, MISSING) is not MISSING:
                own[other[0]].pop(other[1])
        kept = {path: place for path, _ in _settings(own) if self.get(path, MISSING) is MISSING}
        return Given(_merged(own, self.values), kept | self.places)

    def resolve(self) -> RunConfig:
        """Return the config, with defaults for all other values. Raises UserError, which names the first problem and its place."""
        try:
            return RunConfig.model_validate(self.values)
        except ValidationError as error:
            raise explain(error, self.place) from None


def load_config(file: str | None = None, overrides: Sequence[str] = (), **fixed: Any) -> RunConfig:
    """Load the embedded default, changed by `file`, then by `overrides` ("ppo.num_updates=10"), then by `fixed` top-level keys.

    Raises UserError for a missing or malformed file, an unknown key (with the nearest valid name) or a wrong value.
    """
    return read_given(file, overrides, **fixed).resolve()


def read_given(file: str | None = None, overrides: Sequence[str] = (), **fixed: Any) -> Given:
    """Read the values that `load_config` adds to the defaults, unchecked. Raises UserError for a file or word that cannot be read."""
    given = read_config_file(file, f"--config {file}") if file is not None else Given()
    given.set_words(overrides)
    for key, value in fixed.items():
        if value is not None:
            given.set((key,), value, OPTIONS.get(key, key))
    return given


def validate(values: dict[str, Any], where: str) -> RunConfig:
    """Return the values as a RunConfig. Raises UserError, which names the first problem."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise explain(error, lambda path: where) from None


def dump_config(config: RunConfig) -> str:
    """Return every value of a config as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"ppo": {"num_updates": 10}} as {"ppo.num_updates": 10}. `values` may be read from any file, and is not checked."""
    return {".".join(map(str, path)): value for path, value in _settings(values)}


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises UserError if the file does not hold one."""
    return read_file(path).values


def read_config_file(file: str, where: str) -> Given:
    """Read a config file, or the preset with this name. Raises UserError. where: the place that names the file."""
    given = read_file(_find(file, where))
    for key, name in SHORT_FORMS.items():
        if key in given.values and not isinstance(given.values[key], dict):
            given.values[key] = {name: given.values[key]}
    return given


def read_file(path: Path, kind: str = "config", example: str = "configs/embedded.yaml") -> Given:
    """Read the mapping in a YAML file, with the line of every key. Raises UserError, also for a key that is given twice.

    kind, example: what the file is called in messages, and a file of this kind.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        node = yaml.compose(text, yaml.SafeLoader)
        values = yaml.safe_load(text)
        places = {key: f"{path}, line {line}" for key, line in _lines(node, path).items()}
    except OSError as error:
        raise UserError(f"cannot read the {kind} file: {error.strerror}", str(path), "check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"the {kind} file is not UTF-8 text (byte {error.start + 1})", str(path), "save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"the {kind} file is not valid YAML: {error.problem}", f"{path}{line}", "correct the line") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = (str(error).splitlines() or [""])[0] if not isinstance(error, RecursionError) else "it is nested too deeply"
        raise UserError(f"the {kind} file is not valid YAML: {what}", str(path), "correct the file") from None
    if values is None:
        return Given()
    if not isinstance(values, dict):
        raise UserError(f"the {kind} file must be a mapping of keys to values", str(path), f"see {example} for an example")
    return Given(values, places)


def _settings(values: Mapping[str, Any], section: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every setting under its path. An empty mapping is the value of a setting, and not a section."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _settings(value, (*section, key))
        else:
            yield (*section, key), value


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return `old` with the values of `new` put over it, group by group."""
    groups = {key: _merged(old[key], value) for key, value in new.items() if isinstance(value, dict) and isinstance(old.get(key), dict)}
    return old | new | groups


def _default(path: tuple[str, ...]) -> Any:
    value: Any = RunConfig()
    for part in path:
        value = getattr(value, part, None)
    return value


def _lines(node: Any, file: Path, section: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
    """Return the line of every key under a YAML node. Raises UserError for a key that is given twice."""
    found: dict[tuple[str, ...], int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        path = (*section, str(key.value))
        line = key.start_mark.line + 1
        if path in found:
            raise UserError(
                f"the setting {'.'.join(path)} is given twice",
                f"{file}, line {line} and line {found[path]}",
                "remove one of the two lines",
            )
        found |= {path: line}
        found |= _lines(value, file, path)
    return found


def _find(file: str, where: str) -> Path:
    """Return the path that was given, or that of the preset with this name. Raises UserError if there is neither."""
    path, preset = Path(file), PRESETS / f"{file}.yaml"
    if os.path.exists(path) and not os.path.isdir(path):
        return path
    if os.path.isfile(preset):
        return preset
    if os.path.isdir(path):
        raise UserError("the config file is a folder", where, "give a YAML file in it, or the name of a preset")
    names = sorted(p.stem for p in PRESETS.glob("*.yaml"))
    near = difflib.get_close_matches(path.stem, names, n=1)
    hint = f", did you mean the preset {near[0]!r}?" if near else ""
    raise UserError(f"the config file does not exist{hint}", where, f"give a path or the name of a preset: {', '.join(names)}")


def _parse_word(word: str) -> tuple[tuple[str, ...], Any]:
    """Turn "ppo.num_updates=10" into (("ppo", "num_updates"), 10). Raises UserError for a word without a key."""
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise UserError(f"{word!r} is not a KEY=VALUE setting", "the command line", "write, for example, ppo.num_updates=10")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that does not exist
        value = text
    return tuple(key.split(".")), value
