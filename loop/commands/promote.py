"""`promote`: export the policy of the round to ship, as a model or as an adapter that other programs load.

The folder is whole or absent: it is filled under another name beside its place and renamed. A folder that exists is replaced only if an
earlier `promote` wrote it and nobody has changed it since. The run is only read.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.schema import RunConfig
from loop.commands.arguments import add_run, check_has_config, find_run, runs_folder
from loop.commands.asking import ask, config_in_this_process, whole_stages
from loop.failures import disk_errors_explained
from loop.printing import say
from loop.promotion.base import base_facts
from loop.promotion.card import Promoted, card
from loop.promotion.choosing import Choice, check_round, choose_round, policy_stage
from loop.round import BASE, DATA, PMP, PROMOTE, PROMOTE_ADAPTER, data_stage
from loop.store.artifacts import commit, find_damage, hash_file, hash_json
from loop.store.base_files import read_record
from loop.store.journal import RunState, fold, read_events
from loop.store.layout import MANIFEST, RunFolder, place
from loop.wording import round_name

HELP = "export the policy of the round to ship, as a model or an adapter that other programs load"
SFT_WORD = "sft"
MADE_BY = "promoted_from"
"""The entry in the manifest of a promoted folder that says that it is one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `promote`."""
    add_run(parser)
    parser.add_argument(
        "round", nargs="?", type=_round, metavar="ROUND", help="a round's number, or `sft` (default: the one with the best figures)"
    )
    parser.add_argument("--out", metavar="FOLDER", help="the new folder (default: RUN-round-N in the current directory)")
    parser.add_argument("--adapter", action="store_true", help="export the PEFT adapter alone, without the base")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    folder = RunFolder(find_run(runs_folder(options).resolve(), options.run))
    check_has_config(folder)
    state = fold(read_events(folder.journal))
    choice = choose_round(folder, state) if options.round is None else check_round(folder, state, _number(options.round))
    name = f"{folder.name}-{SFT_WORD if choice.round is None else place(choice.round)}{'-adapter' if options.adapter else ''}"
    out = Path(options.out or name)
    out = out.parent.resolve() / out.name
    _check_free(out, folder.path)
    say("\n".join(choice.lines))
    with disk_errors_explained(out.parent), tempfile.TemporaryDirectory(prefix=".loop-promote-", dir=out.parent) as temporary:
        _export(folder, state, choice, options.adapter, Path(temporary), out)
    size = sum(path.stat().st_size for path in _files(out)) / 2**20
    say(f"{folder.name}, {round_name(choice.round)}, as {'an adapter' if options.adapter else 'a model'}, {size:.1f} MiB: {out}")
    return 0


def _export(folder: RunFolder, state: RunState, choice: Choice, is_adapter: bool, work: Path, out: Path) -> None:
    """Fill a folder in `work` and put it at `out`. Raises UserError for damaged stages, and for a base that is not the run's any more."""
    config = config_in_this_process(folder, state)
    stages = {"data": (data_stage(config), None), "base": (BASE, None), "policy": (policy_stage(choice.round), choice.round)}
    inputs, output = whole_stages(folder, state, stages), work / "payload"
    output.mkdir()
    found = ask(PROMOTE_ADAPTER if is_adapter else PROMOTE, choice.round, config, inputs, work, output, "exporting")
    facts, digest = base_facts(config.base, read_record(inputs["base"]).get("commit")), hash_file(folder.config)
    promoted = Promoted(folder.name, config, digest, state, choice, facts, _sources(folder, config, choice), found, is_adapter)
    readme = output / "README.md"
    readme.write_text(card(promoted), encoding="utf-8")
    for path in _files(output):  # safetensors writes files that only their owner can read
        path.chmod(readme.stat().st_mode)
    policy = state.stage(policy_stage(choice.round).name, choice.round).digest
    origin = {"run": folder.name, "round": choice.round, "policy": policy, "config": digest, "adapter": is_adapter}
    _check_free(out, folder.path)
    commit(output, out, hash_json(origin), {MADE_BY: origin}, 0.0)


def _files(folder: Path) -> list[Path]:
    """All files in a folder and in the folders in it."""
    return [path for path in folder.rglob("*") if path.is_file()]


def _sources(folder: RunFolder, config: RunConfig, choice: Choice) -> list[dict[str, Any]]:
    """The accounts of the run's data, and of the votes from which the reward models of PPO started. The embedded world has none."""
    learned_from_votes = config.uses_pmp and config.trainer == "ppo" and choice.round is not None
    paths = [folder.stage(stage.name, None) / "sources.json" for stage in (DATA, *([PMP] if learned_from_votes else []))]
    return [account for path in paths if path.exists() for account in json.loads(path.read_text(encoding="utf-8"))]


def _check_free(out: Path, run: Path) -> None:
    """Raises UserError if the new folder cannot be there."""
    where = f"--out {out}"
    if out.is_relative_to(run):
        raise UserError("the new folder would be inside the run", where, "give a place outside of it")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is not a folder", where, "make it, or give another place")
    if not out.exists() and not out.is_symlink():
        return
    another = "give another place, or remove it yourself"
    try:
        is_ours = MADE_BY in json.loads((out / MANIFEST).read_text(encoding="utf-8"))["metrics"]
    except (OSError, ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise UserError(f"{out} exists, and `loop promote` has not made it", where, another)
    if damage := find_damage(out):
        raise UserError(f"{out} was changed since `loop promote` made it ({damage[0]})", where, another)


def _round(word: str) -> int | str:
    if word == SFT_WORD:
        return word
    if not word.isascii() or not word.isdigit():
        raise argparse.ArgumentTypeError(f"must be the number of a round or `{SFT_WORD}`, not {word!r}")
    return int(word)


def _number(word: int | str) -> int | None:
    return None if isinstance(word, str) else word
