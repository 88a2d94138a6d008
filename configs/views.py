"""Which settings a stage can read: those that its key covers, and nothing else.

Two functions ensure that. `identity` returns the settings that go into a key: all but those marked `RUN_TIME`. `visible` returns the config
as a stage sees it: the settings that the stage names, and the run-time settings. Reading any other setting raises `UndeclaredSetting`,
so a stage cannot depend on a setting that is missing from its key. Must never import an ML library.
"""

import functools
from collections.abc import Iterable
from typing import Any, cast

from configs.fields import RUN_TIME, UNSET_IN_NO_KEY, Section
from configs.schema import RunConfig


class UndeclaredSetting(LookupError):
    """The code of a stage reads a setting that the stage does not declare. This is a mistake in the program, not in the user's input."""


def identity(section: Section) -> dict[str, Any]:
    """Return the settings that decide what is computed, as plain data. Run-time settings are left out at every depth, and so are settings
    marked `UNSET_IN_NO_KEY` that are None."""
    return _identity_of(section, section.model_dump(mode="json"))


def identity_at(config: RunConfig, dotted: str) -> Any:
    """Return the identity of one section or setting, for example "ppo" or "reward.ensemble"."""
    value: Any = identity(config)
    for part in dotted.split("."):
        value = value[part]
    return value


def is_run_time(section: Section, name: str) -> bool:
    """Return whether a field of a section is a run-time setting."""
    return name not in _identity_fields(type(section))


def visible(config: RunConfig, reads: Iterable[str]) -> RunConfig:
    """Return the config as a stage sees it: the sections and settings in `reads` ("ppo", "reward.ensemble"), and all run-time settings.

    The result has the attributes of a RunConfig. Reading one that is not visible raises UndeclaredSetting.
    """
    return cast(RunConfig, _View(config, tuple(reads), ""))


def covers(config: RunConfig, name: str) -> bool:
    """Return whether a stage that sees this much of a config can read all of a section."""
    return name in config._reads if isinstance(config, _View) else True


class _View:
    """A section with only some readable settings. reads: their names, relative to this section."""

    def __init__(self, section: Section, reads: tuple[str, ...], path: str):
        self._section, self._reads, self._path = section, reads, path

    def __getattr__(self, name: str) -> Any:
        section, path = self._section, f"{self._path}{name}"
        if name not in type(section).model_fields:
            raise AttributeError(f"there is no setting {path!r}")
        value = getattr(section, name)
        if name in self._reads or is_run_time(section, name):
            return value
        if isinstance(value, Section):
            return _View(value, tuple(read.removeprefix(f"{name}.") for read in self._reads if read.startswith(f"{name}.")), f"{path}.")
        raise UndeclaredSetting(f"a stage reads the setting {path!r}, but its `reads` in loop/round.py do not contain it")


def _identity_of(value: Any, dumped: Any) -> Any:
    """The identity of a section or setting, given what `model_dump` says of it. The dump of a section has all that is inside it."""
    if not isinstance(value, Section):
        return dumped
    fields = type(value).model_fields
    given = [n for n in _identity_fields(type(value)) if getattr(value, n) is not None or UNSET_IN_NO_KEY not in fields[n].metadata]
    return {name: _identity_of(getattr(value, name), dumped[name]) for name in given}


@functools.cache
def _identity_fields(section: type[Section]) -> tuple[str, ...]:
    """The fields of a kind of section that are not run-time settings, in order. Every stage of every round asks for them."""
    return tuple(name for name, field in section.model_fields.items() if RUN_TIME not in field.metadata)
