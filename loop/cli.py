"""The command line. Reads words, calls the driver, turns errors into messages and exit codes. Never imports torch.

0 done · 2 the user's input is wrong · 3 waiting for labels · 4 a stage failed · 130 interrupted, can go on
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from configs.errors import LoopError, UserError
from configs.loading import load_config
from loop.journal import RunState, fold, read_events, to_json
from loop.round import ROUND_STAGES, SETUP_STAGES

DEFAULT_RUNS = "runs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    options, left = parser.parse_known_args(arguments)
    if left and hasattr(options, "settings") and all("=" in word and not word.startswith("-") for word in left):
        options.settings += left  # argparse takes KEY=VALUE before or after the options, but not both
    elif left:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    try:
        return options.command(options)
    except LoopError as error:
        print(f"{'' if error.exit_code in (3, 130) else 'error: '}{error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run(options: argparse.Namespace) -> int:
    """`run`: start a run, or go on with it."""
    from loop.driver import Driver
    from loop.failures import disk_errors_explained
    from loop.monitoring import Terminal
    from loop.plan import fork
    from rewards.preference_data import check_files_exist

    if options.rounds is not None and options.rounds < 1:
        raise UserError(
            f"--rounds must be at least 1, not {options.rounds}", "the command line", "give the number of rounds, for example --rounds 2"
        )
    config = load_config(options.config, options.settings, name=options.name, num_rounds=options.rounds)
    runs, terminal = Path(options.runs).resolve(), Terminal()
    _check_name(config.name, "--name")
    check_files_exist(config.data)
    if options.fork:
        _check_name(options.fork, "--fork")
        source, config = _find_run(runs, config.name), config.model_copy(update={"name": options.fork})
        with disk_errors_explained(runs):
            taken = fork(source, runs / options.fork, config)
        if taken:
            terminal.say(f"{options.fork}: {len(taken)} stages taken over from {source.name}")
    Driver(config, runs / config.name, terminal).execute()
    return 0


def _check_name(name: str, where: str) -> None:
    if not name or Path(name).name != name or name.startswith("."):
        raise UserError(f"not a run name: {name!r}", where, "use letters, digits, - and _, without a slash")


def status(options: argparse.Namespace) -> int:
    """`status`: where a run stands and what it measured."""
    from loop.driver import is_locked

    folder = _find_run(Path(options.runs), options.run)
    state = fold(read_events(folder / "journal.jsonl"))
    if state.state == "running" and not is_locked(folder):
        state.state = "interrupted"
    found = to_json(folder.name, state, [s.name for s in SETUP_STAGES], [s.name for s in ROUND_STAGES])
    if options.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _print_status(folder.name, state)
    return 0


def verify(options: argparse.Namespace) -> int:
    """`verify`: hash everything that was committed once more."""
    from loop.driver import verify as find_damage

    folder = _find_run(Path(options.runs), options.run)
    damage, stages = find_damage(folder)
    if damage:
        many = f"{len(damage)} things are damaged" if len(damage) > 1 else "one thing is damaged"
        raise UserError(
            "\n  ".join([many, *damage]), str(folder), "delete a damaged stage's directory: the same run command makes it again"
        )
    print(f"{folder.name}: {stages} stages, nothing damaged")
    return 0


def gc(options: argparse.Namespace) -> int:
    """`gc`: remove what nothing refers to."""
    from loop.driver import collect_garbage

    folder = _find_run(Path(options.runs), options.run)
    print(f"{folder.name}: {collect_garbage(folder) / 2**20:.1f} MiB removed")
    return 0


def _print_status(name: str, state: RunState) -> None:
    from loop.monitoring import Terminal, headline

    terminal = Terminal()
    terminal.say(f"{name}: {state.state}, {state.num_rounds} rounds" + (f"\n{state.message}" if state.message else ""))
    for where, stages in (("setup", state.setup), *((f"round-{n:03d}", s) for n, s in sorted(state.rounds.items()))):
        for stage, row in stages.items():
            seconds = f"{row.seconds:6.1f} s" if row.seconds is not None else " " * 8
            terminal.say(f"{where + '/' + stage:<20} {row.state:<11} {seconds}  {headline(stage, row.metrics)}".rstrip())


def _find_run(runs: Path, name: str | None) -> Path:
    known = sorted(path.parent.name for path in runs.glob("*/journal.jsonl"))
    if name is None and len(known) == 1:
        name = known[0]
    if name is None:
        what = "there is no run yet" if not known else f"there are several runs: {', '.join(known)}"
        raise UserError(what, str(runs), "start one with `python -m loop run`" if not known else "name one: `python -m loop status RUN`")
    if name not in known:
        raise UserError(f"there is no run {name!r}", str(runs), f"the runs here are: {', '.join(known) or 'none'}")
    return runs / name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loop", description="Iterated RLHF: rounds of reward model, PPO, samples, labels.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("run", help="start a run, or go on with it: the same command resumes")
    command.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="a config value, for example ppo.num_updates=10")
    command.add_argument("--rounds", type=int, metavar="N", help="how many rounds in all")
    command.add_argument("--config", metavar="FILE", help="a YAML file or a preset's name; without it, the embedded default")
    command.add_argument("--name", metavar="RUN", help="the run's name, and its directory under --runs")
    command.set_defaults(command=run)

    command.add_argument(
        "--fork", metavar="NEW", help="leave the run as it is, and start NEW with these settings and the stages they do not touch"
    )

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
