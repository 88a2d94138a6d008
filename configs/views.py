"""What of a config may be seen, and by whom: a stage sees what its key covers, and nothing else.

Two rules make that true. `identity` is what a key is made of: all settings but those that are marked `RUN_TIME` in `schema.py`.
`visible` is what a stage is given: the settings that it names, and those of run time. Reading any other setting raises
`UndeclaredSetting`, so a stage cannot depend on something that is missing from its key. Must never import an ML library.
"""

from collections.abc import Iterable
from typing import Any, cast

from configs.schema import RUN_TIME, RunConfig, Section


class UndeclaredSetting(LookupError):
    """Code of a stage reads a setting that the stage does not declare. This is a mistake in the program, never in the user's input."""


def identity(section: Section) -> dict[str, Any]:
    """The settings that decide what is computed, as plain data: all but those of run time, at every depth."""
    dumped = section.model_dump(mode="json")
    return {
        name: _identity_of(getattr(section, name), dumped[name]) for name in type(section).model_fields if not is_run_time(section, name)
    }


def identity_at(config: RunConfig, dotted: str) -> Any:
    """The identity of one section or setting, for example "ppo" or "reward.ensemble"."""
    value: Any = identity(config)
    for part in dotted.split("."):
        value = value[part]
    return value


def is_run_time(section: Section, name: str) -> bool:
    """Whether a field of a section is marked as run time."""
    return RUN_TIME in type(section).model_fields[name].metadata


def visible(config: RunConfig, reads: Iterable[str]) -> RunConfig:
    """The config as a stage sees it: the sections and settings in `reads` ("ppo", "reward.ensemble"), and all settings of run time.

    It has the attributes of a RunConfig. Reading one that is not visible raises UndeclaredSetting.
    """
    return cast(RunConfig, _View(config, tuple(reads), ""))


class _View:
    """A section of which only some settings can be read. `reads`: their names, relative to this section."""

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
        raise UndeclaredSetting(f"the setting {path!r} is read by a stage whose `reads` (loop/round.py) do not name it")


def _identity_of(value: Any, dumped: Any) -> Any:
    return identity(value) if isinstance(value, Section) else dumped
