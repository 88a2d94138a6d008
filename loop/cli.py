"""The command line. Reads words, calls the driver, turns errors into messages and exit codes. Never imports torch.

0 done · 2 the user's input is wrong · 3 waiting for labels · 4 a stage failed · 130 interrupted, can go on
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from configs.errors import LoopError, UserError
from configs.fields import BadValue, check_name
from configs.loading import Given, read_given, validate
from loop.printing import say
from loop.round import ROUND_STAGES, SETUP_STAGES
from loop.store.artifacts import MANIFEST
from loop.store.journal import RunState, fold, read_events, to_json

DEFAULT_RUNS = "runs"
CONFIG, JOURNAL = "config.yaml", "journal.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        options = _read_words(arguments)
        return options.command(options)
    except LoopError as error:
        say(f"{'' if error.exit_code in (3, 130) else 'error: '}{error}", to_stderr=True)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run(options: argparse.Namespace) -> int:
    """`run`: start a run, or go on with it. For a run that is there, what is not given is taken from its own config."""
    given = read_given(options.config, options.settings, name=options.name, num_rounds=options.rounds)
    return _execute(_runs_folder(options).resolve(), given, options.fork)


def resume(options: argparse.Namespace) -> int:
    """`resume`: go on with a run that is there, by its own config."""
    if options.run and "=" in options.run:
        options.run, options.settings = None, [options.run, *options.settings]
    runs = _runs_folder(options).resolve()
    folder = _find_run(runs, options.run)
    if not (folder / CONFIG).exists():
        to_do = "give its settings: `python -m loop run --name RUN KEY=VALUE ...`"
        raise UserError(f"the run {folder.name!r} has no {CONFIG}, so its settings are not known", str(folder), to_do)
    return _execute(runs, read_given(None, options.settings, name=folder.name, num_rounds=options.rounds))


def _execute(runs: Path, given: Given, new_name: str | None = None) -> int:
    """Run what is given, over the config of the run if there is one, or fork that run as `new_name`."""
    from loop.driver import Driver
    from loop.failures import disk_errors_explained
    from loop.forks import fork
    from loop.keys import config_of
    from loop.terminal import Terminal
    from policies.base_folder import check_base

    terminal = Terminal()
    folder, source_given = runs / given.name(), given.get(("data", "source")) is not None
    if (folder / CONFIG).exists():
        own = config_of(folder, fold(read_events(folder / JOURNAL)))
        given = given.over(own.model_copy(update={"name": folder.name}), str(folder / CONFIG))
    data_is_read = (folder / "setup" / "data" / MANIFEST).exists() and not (new_name and source_given)
    _check_files(given, data_is_read)
    config = given.resolve()
    check_base(config, given.place(("base", "model")))
    if new_name is not None:
        source, config = _find_run(runs, config.name), validate(config.model_dump() | {"name": new_name}, f"--fork {new_name}")
        with disk_errors_explained(runs):
            taken = fork(source, runs / new_name, config)
        terminal.say(f"{new_name}: {len(taken)} stages taken over from {source.name}")
    Driver(config, runs / config.name, terminal).execute()
    return 0


def _check_files(given: Given, data_is_read: bool) -> None:
    """Before anything else: a file that is not there is the likelier slip than settings that do not go together."""
    from rewards.data.sources import check_labels, check_sources

    if not data_is_read:
        check_sources(given.get(("data", "source"), "embedded"), given.place(("data", "source")))
    check_labels(given.get(("labeler", "path")), given.place(("labeler", "path")))


def _runs_folder(options: argparse.Namespace) -> Path:
    """Where runs are kept. Raises UserError where something else than a folder is in the way."""
    runs = Path(options.runs)
    in_the_way = next((path for path in (runs, *runs.parents) if os.path.exists(path) and not os.path.isdir(path)), None)
    if in_the_way:
        raise UserError(f"{in_the_way} is a file, not a folder", f"--runs {runs}", "give a folder, or a path where one can be made")
    return runs


def status(options: argparse.Namespace) -> int:
    """`status`: where a run stands and what it measured."""
    from loop.store.lock import is_locked

    folder = _find_run(_runs_folder(options), options.run)
    state = fold(read_events(folder / JOURNAL))
    if state.state == "running" and not is_locked(folder):
        state.state = "interrupted"
    found = to_json(folder.name, state, [s.name for s in SETUP_STAGES], [s.name for s in ROUND_STAGES])
    if options.json:
        say(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _print_status(folder.name, state)
    return 0


def verify(options: argparse.Namespace) -> int:
    """`verify`: hash everything that was committed once more."""
    from loop.store.upkeep import verify as find_damage

    folder = _find_run(_runs_folder(options), options.run)
    damage, stages = find_damage(folder)
    if damage:
        many = f"{len(damage)} things are damaged" if len(damage) > 1 else "one thing is damaged"
        raise UserError(
            "\n  ".join([many, *damage]), str(folder), "delete a damaged stage's directory: the same run command makes it again"
        )
    say(f"{folder.name}: {stages} stages, nothing damaged")
    return 0


def gc(options: argparse.Namespace) -> int:
    """`gc`: remove what nothing refers to."""
    from loop.store.upkeep import collect_garbage

    folder = _find_run(_runs_folder(options), options.run)
    say(f"{folder.name}: {collect_garbage(folder) / 2**20:.1f} MiB removed")
    return 0


def _print_status(name: str, state: RunState) -> None:
    from loop.terminal import Terminal, headline

    terminal = Terminal()
    terminal.say(f"{name}: {state.state}, {state.num_rounds} rounds" + (f"\n{state.message}" if state.message else ""))
    for where, stages in (("setup", state.setup), *((f"round-{n:03d}", s) for n, s in sorted(state.rounds.items()))):
        for stage, row in stages.items():
            seconds = f"{row.seconds:6.1f} s" if row.seconds is not None else " " * 8
            terminal.say(f"{where + '/' + stage:<20} {row.state:<11} {seconds}  {headline(stage, row.metrics)}".rstrip())


def _find_run(runs: Path, name: str | None) -> Path:
    known = sorted(path.parent.name for path in runs.glob(f"*/{JOURNAL}") if not path.parent.name.startswith("."))  # . is half a fork
    if name is None and len(known) == 1:
        name = known[0]
    if name is None:
        what = "there is no run yet" if not known else f"there are several runs: {', '.join(known)}"
        raise UserError(what, str(runs), "start one with `python -m loop run`" if not known else "name one of them")
    if name not in known:
        raise UserError(f"there is no run {name!r}", str(runs), f"the runs here are: {', '.join(known) or 'none'}")
    return runs / name


class _Parser(argparse.ArgumentParser):
    """argparse, with its complaints in the form of all others."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message, "the command line", f"see `{self.prog} --help`")


def _read_words(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Raises UserError for words that no command takes."""
    options, left = _parser().parse_known_args(arguments)
    settings = [word for word in left if "=" in word and not word.startswith("-")]
    if hasattr(options, "settings") and settings == left:
        options.settings += left  # argparse takes KEY=VALUE before or after the options, but not both
    elif left:
        raise UserError(f"no command takes this: {' '.join(left)}", "the command line", "see `python -m loop --help`")
    return options


def _number_of_rounds(word: str) -> int:
    try:
        number = int(word)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {word!r}")
    return number


def _run_name(word: str) -> str:
    try:
        return check_name(word)
    except BadValue as error:
        raise argparse.ArgumentTypeError(f"{error}; {error.to_do}") from None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m loop", description="Iterated RLHF: rounds of reward model, PPO, samples, labels.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("run", help="start a run, or go on with it: the same command resumes")
    command.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="a config value, for example ppo.num_updates=10")
    command.add_argument("--rounds", type=_number_of_rounds, metavar="N", help="how many rounds in all")
    command.add_argument("--config", metavar="FILE", help="a YAML file or a preset's name; without it, the embedded default")
    command.add_argument("--name", metavar="RUN", help="the run's name, and its directory under --runs")
    command.add_argument(
        "--fork",
        type=_run_name,
        metavar="NEW",
        help="leave the run as it is, and start NEW with these settings and the stages they do not touch",
    )
    command.set_defaults(command=run)

    command = commands.add_parser("resume", help="go on with a run that is there, with the settings that it was started with")
    command.add_argument("run", nargs="?", metavar="RUN")
    command.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="a setting of run time, for example ppo.micro_batch_size=4")
    command.add_argument("--rounds", type=_number_of_rounds, metavar="N", help="how many rounds in all")
    command.set_defaults(command=resume)

    command = commands.add_parser("status", help="where a run stands, and what it measured")
    command.add_argument("run", nargs="?", metavar="RUN")
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(command=status)

    command = commands.add_parser("verify", help="hash everything that a run committed, and name what is damaged")
    command.add_argument("run", nargs="?", metavar="RUN")
    command.set_defaults(command=verify)

    command = commands.add_parser("gc", help="remove what nothing refers to: left-overs of attempts that died")
    command.add_argument("run", nargs="?", metavar="RUN")
    command.set_defaults(command=gc)

    for command in commands.choices.values():
        command.add_argument(
            "--runs", default=os.environ.get("LOOP_RUNS", DEFAULT_RUNS), metavar="DIR", help="where runs are kept (default: runs)"
        )
    return parser
