"""Reads the file of an experiment: arms x seeds, what is measured, and which arms are compared.

    base: embedded                          a preset, a config file, or {config: PRESET, KEY: VALUE, ...}
    rounds: 3
    seeds: [0, 1, 2]
    arms:
      iterated: {}                          the base as it is
      one-shot: {rounds: 1, ppo.num_updates: 120}
    compare: [[iterated, one-shot]]         differences, first minus second
    metrics: [evaluate.gold, {path: evaluate.kl, rounds: all}]

What is wrong with the file is found here, before anything runs, but for the names inside a metric. Must never import torch or Ray.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, ValidationError

from configs.errors import UserError, did_you_mean
from configs.fields import BadValue, Section, check_name
from configs.loading import Given, read_config_file, read_file
from configs.schema import MAPPINGS, RunConfig
from loop.experiments.metrics import check_path
from loop.round import Program, run_rounds

KINDS: dict[str, Program] = {"rounds": run_rounds}
"""What an arm does, by its `kind`: the program that asks for its stages. Another way to use the same base, data and labels, such as
best-of-n without PPO, is another program over `run.stage`, entered here. All arms share the stages that have equal keys."""
EXAMPLE = "experiments/iterate.yaml"
OF_THE_EXPERIMENT = {"name": "the name of the file, or of `name`,", "seed": "`seeds`", "num_rounds": "`rounds`"}
"""Settings of a run that the experiment decides -> what decides them."""
MUST_BE = {
    "name": "text",
    "base": "a preset, a config file, or a group of settings",
    "rounds": "a whole number of at least 1",
    "seeds": "a list of whole numbers of at least 0",
    "arms": "a group of arms, each with a group of settings",
    "compare": "a list of pairs of arms",
    "metrics": "a list of paths such as evaluate.gold, or of {path: evaluate.gold, rounds: all}",
}
"""What each key of the file must be."""
Seed = Annotated[int, Field(ge=0, strict=True)]


class Metric(Section):
    """A metric of a stage: at the last round of each arm, or at every round."""

    path: str
    rounds: Literal["last", "all"] = "last"


class ExperimentFile(Section):
    """The keys of the file."""

    name: str | None = None
    base: str | dict[str, Any] = "embedded"
    rounds: PositiveInt | None = None
    seeds: Annotated[list[Seed], Field(min_length=1)]
    arms: Annotated[dict[str, dict[str, Any] | None], Field(min_length=1)]
    compare: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = []
    metrics: Annotated[list[str | Metric], Field(min_length=1)]


@dataclass(frozen=True)
class Arm:
    """One way to run. given: all of its settings except the seed. changes: those that differ from the base of the experiment."""

    name: str
    kind: str
    num_rounds: int
    given: Given
    changes: dict[str, Any]

    def run_name(self, seed: int) -> str:
        """The name of the run with this seed."""
        return f"{self.name}-seed-{seed}"

    def given_at(self, seed: int) -> Given:
        """The settings of the run with this seed."""
        given = copy.deepcopy(self.given)
        given.set(("seed",), seed, "the seeds of the experiment")
        given.set(("name",), self.run_name(seed), f"the arm {self.name}")
        return given

    def config(self, seed: int) -> RunConfig:
        """The config of the run with this seed."""
        return self.given_at(seed).resolve()


@dataclass(frozen=True)
class Experiment:
    """What is run, measured and compared. file: where it was read from."""

    name: str
    file: str
    seeds: list[int]
    arms: dict[str, Arm]
    compare: list[tuple[str, str]]
    metrics: list[Metric]

    @property
    def runtime(self) -> RunConfig:
        """The config that says where the runs are computed. It is the same for all arms."""
        config = next(iter(self.arms.values())).config(self.seeds[0])
        return config.model_copy(update={"name": self.name})


def read_experiment(file: str, words: Sequence[str] = (), seeds: Sequence[int] | None = None) -> Experiment:
    """Read an experiment. words: KEY=VALUE settings of the command line for all arms. seeds: instead of those in the file.

    Raises UserError, which names the first problem and its place.
    """
    if not Path(file).is_file():
        raise UserError("the experiment file does not exist", file, f"give the path of a YAML file, for example {EXAMPLE}")
    source = read_file(Path(file), "experiment", EXAMPLE)
    given = source.values | ({"seeds": list(seeds)} if seeds else {})
    try:
        read = ExperimentFile.model_validate(given)
    except ValidationError as error:
        raise _explain(error, source, file) from None
    name = _checked_name(read.name or Path(file).stem, source, file, ("name",))
    base = _base(read, source, file)
    base.set_words(words)
    _refuse(words_as_paths(words), "the command line")
    if read.rounds:
        base.set(("num_rounds",), read.rounds, _place(source, file, ("rounds",)))
    arms = {arm: _arm(arm, values or {}, base, source, file) for arm, values in read.arms.items()}
    if repeated := [seed for seed in read.seeds if read.seeds.count(seed) > 1]:
        raise UserError(f"the seed {repeated[0]} is given twice", _place(source, file, ("seeds",)), "remove one of the two")
    compare = [_pair(pair, list(arms), _place(source, file, ("compare",))) for pair in read.compare]
    metrics = [Metric(path=metric) if isinstance(metric, str) else metric for metric in read.metrics]
    for metric in metrics:
        check_path(metric.path, _place(source, file, ("metrics",)))
    return Experiment(name, file, read.seeds, arms, compare, metrics)


def words_as_paths(words: Iterable[str]) -> list[tuple[str, ...]]:
    """The settings that KEY=VALUE words name."""
    return [tuple(word.partition("=")[0].split(".")) for word in words]


def _base(read: ExperimentFile, source: Given, file: str) -> Given:
    """The settings that all arms share."""
    where = _place(source, file, ("base",))
    if isinstance(read.base, str):
        return read_config_file(read.base, where)
    values = dict(read.base)
    given = read_config_file(str(values.pop("config", "embedded")), where)
    for path, value, place in _settings(values, source, file, ("base",)):
        _refuse([path], place)
        given.set(path, value, place)
    return given


def _arm(name: str, values: Mapping[str, Any], base: Given, source: Given, file: str) -> Arm:
    """One arm, with its settings over those of the base. Raises UserError where they are not valid together."""
    _checked_name(name, source, file, ("arms", name))
    own, given, changes = dict(values), copy.deepcopy(base), {}
    kind, rounds = own.pop("kind", "rounds"), own.pop("rounds", None)
    if str(kind) not in KINDS:
        place = _place(source, file, ("arms", name, "kind"))
        raise UserError(f"there is no kind of arm {kind!r}{did_you_mean(str(kind), KINDS)}", place, f"use one of: {', '.join(KINDS)}")
    if rounds is not None:
        given.set(("num_rounds",), rounds, _place(source, file, ("arms", name, "rounds")))
        changes["rounds"] = rounds
    for path, value, place in _settings(own, source, file, ("arms", name)):
        _refuse([path], place)
        if path[0] == "runtime":
            to_do = "put it into `base`: all arms run on the same workers"
            raise UserError(f"the arm {name!r} sets {'.'.join(path)}, which is a setting of the whole experiment", place, to_do)
        given.set(path, value, place)
        changes[".".join(path)] = value
    return Arm(name, kind, given.resolve().num_rounds, given, changes)


def _settings(
    values: Mapping[str, Any], source: Given, file: str, at: tuple[str, ...], section: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    """(path, value, place) of every setting in a mapping. Keys may be nested, `ppo: {num_updates: 9}`, or dotted, `ppo.num_updates: 9`.

    A setting that is a mapping of names, such as `ppo.penalties`, is one value: its names are no settings, and it may be empty.
    """
    for key, value in values.items():
        inner, path = (*at, str(key)), (*section, *str(key).split("."))
        if isinstance(value, dict) and path not in MAPPINGS:
            yield from _settings(value, source, file, inner, path)
        else:
            yield path, value, _place(source, file, inner)


def _refuse(paths: Iterable[tuple[str, ...]], place: str) -> None:
    """Raises UserError for a setting that the experiment decides itself."""
    for path in paths:
        if decides := OF_THE_EXPERIMENT.get(path[0]):
            raise UserError(f"{path[0]} cannot be set here: {decides} of the experiment decides it", place, f"see {EXAMPLE} for an example")


def _pair(pair: Sequence[str], arms: list[str], place: str) -> tuple[str, str]:
    """Two arms to be compared. Raises UserError where one of them is not there."""
    for arm in pair:
        if arm not in arms:
            raise UserError(
                f"`compare` names an arm that does not exist: {arm!r}{did_you_mean(arm, arms)}", place, f"use: {', '.join(arms)}"
            )
    first, second = pair
    if first == second:
        raise UserError(f"`compare` compares the arm {first!r} with itself", place, "name two different arms")
    return first, second


def _checked_name(name: str, source: Given, file: str, path: tuple[str, ...]) -> str:
    """A name that can be the name of a directory. Raises UserError."""
    try:
        return check_name(name)
    except BadValue as error:
        raise UserError(str(error), _place(source, file, path), error.to_do) from None


def _place(source: Given, file: str, path: tuple[str, ...]) -> str:
    """The line of a key of the file, or of the nearest key around it."""
    around = [source.places[path[:length]] for length in range(len(path), 0, -1) if path[:length] in source.places]
    return (around or [file])[0]


def _explain(error: ValidationError, source: Given, file: str) -> UserError:
    """The first problem of the file's own keys as one message."""
    first = error.errors()[0]
    path = tuple(str(part) for part in first["loc"])
    name, keys = ".".join(path), list(ExperimentFile.model_fields)
    place = _place(source, file, path)
    if first["type"] == "extra_forbidden":
        return UserError(f"an experiment has no key {name!r}{did_you_mean(name, keys)}", place, f"use: {', '.join(keys)}; see {EXAMPLE}")
    if first["type"] == "missing":
        return UserError(f"the experiment has no {name!r}", file, f"add it; see {EXAMPLE}")
    return UserError(f"{path[0]} must be {MUST_BE[path[0]]}", place, f"see {EXAMPLE} for an example")
