"""Arguments that several commands share, and how a command finds its run. Must never import torch or Ray."""

import argparse
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from configs.errors import UserError
from configs.fields import BadValue, check_name
from loop.store.layout import RunFolder, all_runs, runs_in


def add_run(parser: argparse.ArgumentParser) -> None:
    """The name of a run that exists."""
    parser.add_argument("run", nargs="?", metavar="RUN", help="the run's name; not needed where there is only one run")


def add_rounds(parser: argparse.ArgumentParser) -> None:
    """The number of rounds."""
    parser.add_argument("--rounds", type=number_from(1), metavar="N", help="how many rounds the run has in total")


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Whether only what needs attention is printed."""
    parser.add_argument("--quiet", action="store_true", help="print warnings and errors only")


def add_config_and_settings(parser: argparse.ArgumentParser) -> None:
    """A config file or a preset, then KEY=VALUE words; `config_and_settings` tells them apart."""
    parser.add_argument("settings", nargs="*", metavar="CONFIG KEY=VALUE", help="a YAML file or a preset, then settings, as for `loop run`")


def config_and_settings(words: list[str]) -> tuple[str | None, list[str]]:
    """The config that the first word names, if it does, and the KEY=VALUE words."""
    return (words[0], words[1:]) if words and "=" not in words[0] else (None, words)


def new_file(word: str, what: str, read: Iterable[str | Path] = ()) -> Path:
    """The path of a file that a command will write. what: the subject of the message. read: files that the command reads. Raises UserError
    where no file can be written, and for a file that is read."""
    path = Path(word)
    if path.resolve() in {Path(file).resolve() for file in read}:
        raise UserError(f"{what} would replace what is read", word, "name another file")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(f"{what} cannot be written there", word, "name a file in a folder that exists")
    return path


def run_name(word: str) -> str:
    """A name for a new run, as argparse takes it."""
    try:
        return check_name(word)
    except BadValue as error:
        raise argparse.ArgumentTypeError(f"{error}; {error.to_do}") from None


def runs_folder(options: argparse.Namespace) -> Path:
    """The directory that holds the runs. Raises UserError where a file is in the way."""
    runs = Path(options.runs)
    in_the_way = next((path for path in (runs, *runs.parents) if os.path.exists(path) and not os.path.isdir(path)), None)
    if in_the_way:
        raise UserError(f"{in_the_way} is a file, not a folder", f"--runs {runs}", "give a folder, or a path where one can be made")
    return runs


def find_run(runs: Path, name: str | None) -> Path:
    """The directory of a run that exists, also of one of an experiment (EXPERIMENT/RUN). Without a name there must be exactly one run, and
    those of experiments do not count. Raises UserError.
    """
    known = [run.name for run in runs_in(runs)]
    if name is None and len(known) == 1:
        name = known[0]
    of_experiments = [other for other in all_runs(runs) if other not in known]
    if name is None and not known and of_experiments:
        raise UserError("there are only runs of experiments", str(runs), f"name one of them, for example {of_experiments[0]}")
    if name is None:
        what = "there is no run yet" if not known else f"there are several runs: {', '.join(known)}"
        raise UserError(what, str(runs), "start one with `loop run`" if not known else "name one of them")
    if name not in (*known, *of_experiments):
        meant = next((f", did you mean {other!r}?" for other in of_experiments if other.endswith(f"/{name}")), "")
        experiments = "; those of experiments are in `loop list`" if of_experiments else ""
        raise UserError(f"there is no run {name!r}{meant}", str(runs), f"the runs here are: {', '.join(known) or 'none'}{experiments}")
    return runs / name


def check_has_config(folder: RunFolder) -> None:
    """Raises UserError for a run without its settings."""
    if not folder.config.exists():
        to_do = "give its settings: `loop run --name RUN KEY=VALUE ...`"
        raise UserError(f"the run {folder.name!r} has no {folder.config.name}, so its settings are not known", str(folder.path), to_do)


def number_from(smallest: int, largest: float = math.inf) -> Callable[[str], int]:
    """A whole number from `smallest` to `largest`, as argparse takes it."""
    limits = f"of at least {smallest}" if largest == math.inf else f"from {smallest} to {largest}"

    def number(word: str) -> int:
        if not word.isascii() or not word.isdigit() or not smallest <= int(word) <= largest:
            raise argparse.ArgumentTypeError(f"must be a whole number {limits}, not {word!r}")
        return int(word)

    return number
