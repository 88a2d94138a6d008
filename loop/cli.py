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
    options = _parser().parse_args(arguments)
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
    from loop.monitoring import Terminal
    from rewards.preference_data import check_files_exist

    if options.rounds is not None and options.rounds < 1:
        raise UserError(
            f"--rounds must be at least 1, not {options.rounds}", "the command line", "give the number of rounds, for example --rounds 2"
        )
    config = load_config(options.config, options.settings, name=options.name, num_rounds=options.rounds)
    if not config.name or Path(config.name).name != config.name or config.name.startswith("."):
        raise UserError(f"not a run name: {config.name!r}", "--name", "use letters, digits, - and _, without a slash")
    check_files_exist(config.data)
    try:
        Driver(config, (Path(options.runs) / config.name).resolve(), Terminal()).execute()
    except OSError as error:
        raise LoopError(
            f"{error.strerror}: {error.filename}\n  mend that; the same command goes on after the last finished stage"
        ) from None
    return 0


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

    command = commands.add_parser("status", help="where a run stands, and what it measured")
    command.add_argument("run", nargs="?", metavar="RUN")
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(command=status)

    for command in commands.choices.values():
        command.add_argument(
            "--runs", default=os.environ.get("LOOP_RUNS", DEFAULT_RUNS), metavar="DIR", help="where runs are kept (default: runs)"
        )
    return parser
