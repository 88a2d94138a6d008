"""`choose`: answer prompts by the policy of a run, with the favorite of several completions.

It reads committed stages and writes nothing into the run, so the run may continue meanwhile. The work is done in this process, without Ray.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.schema import RunConfig
from loop.commands.arguments import check_has_config, find_run, new_file, number_from, runs_folder
from loop.commands.asking import ask, config_in_this_process, whole_stages
from loop.failures import disk_errors_explained
from loop.printing import say
from loop.round import BASE, CHOOSE, POLICY, RETRAIN, SELECT, SFT, Stage, across_languages, data_stage
from loop.store.artifacts import write_synced
from loop.store.journal import RunState, fold, read_events
from loop.store.layout import RunFolder
from rewards.comparisons import PromptRecord, read_jsonl, write_jsonl
from rewards.data.prompts import read_prompts

HELP = "answer prompts by the policy of a run, with the selector's favorite of several completions"
ROUND_STAGES = (POLICY, RETRAIN, SELECT)
"""The stages of a round that are used."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `choose`."""
    parser.add_argument("prompts", metavar="PROMPTS", help="a .jsonl file of rows with `prompt`, or a .txt file with one prompt a line")
    parser.add_argument("--name", metavar="RUN", help="the run's name; not needed where there is only one run")
    parser.add_argument("--round", type=number_from(0), metavar="R", help="the round whose policy answers (default: the newest one)")
    parser.add_argument("--n", type=number_from(2), default=8, metavar="N", help="how many completions each prompt gets (default: 8)")
    parser.add_argument("--out", metavar="FILE", help="write the rows into this file instead of printing them")
    parser.add_argument("--all", action="store_true", help="have each row hold all candidates with their scores")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    folder = RunFolder(find_run(runs_folder(options).resolve(), options.name))
    check_has_config(folder)
    state = fold(read_events(folder.journal))
    # What is asked here takes the place of what the run's own samples have.
    config = config_in_this_process(folder, state, sample={"num_completions": options.n})
    round_number = _find_round(folder, state, options.round)
    inputs = _inputs(folder, state, round_number, data_stage(config))
    records = read_prompts(Path(options.prompts), _prompts_are_messages(inputs["data"]), config.data.normalize)
    out = new_file(options.out, "the answers", [options.prompts]) if options.out else None
    with tempfile.TemporaryDirectory(prefix="loop-choose-") as temporary, disk_errors_explained(Path(temporary)):
        rows = _choose(config, round_number, inputs, records, Path(temporary))
    lines = [json.dumps(row if options.all else _without_candidates(row), ensure_ascii=False) for row in rows]
    if out is None:
        say("\n".join(lines))
        return 0
    with disk_errors_explained(out.parent):
        write_synced(out, "\n".join(lines) + "\n")
    say(f"{len(lines)} prompts answered by {folder.name}, round {round_number}: {out}")
    return 0


def _find_round(folder: RunFolder, state: RunState, wanted: int | None) -> int:
    """The round that is asked for, or the newest one, if it has a policy and a selector. Raises UserError."""
    there = [n for n in sorted(state.rounds) if all(state.stage(stage.name, n).state == "done" for stage in ROUND_STAGES)]
    if not there:
        raise UserError(f"the run {folder.name!r} has no selector yet", str(folder.path), f"finish a round: `loop resume {folder.name}`")
    if wanted is not None and wanted not in there:
        rounds = ", ".join(map(str, there))
        raise UserError(f"round {wanted} has no selector", str(folder.path), f"the rounds of {folder.name!r} that have one: {rounds}")
    return there[-1] if wanted is None else wanted


def _inputs(folder: RunFolder, state: RunState, round_number: int, data: Stage) -> dict[str, Path]:
    """The committed directories that are used. Raises UserError if one of them is damaged. data: the stage that made the run's rows."""
    places: dict[str, tuple[Stage, int | None]] = {
        "data": (data, None),
        "base": (BASE, None),
        "sft": (SFT, None),
        "policy": (POLICY, round_number),
        "retrained": (RETRAIN, round_number),
        "select": (SELECT, round_number),
    }
    return whole_stages(folder, state, places)


def _prompts_are_messages(data: Path) -> bool:
    """Whether the run was trained on prompts that are messages, so that a line of text should become one."""
    records = read_jsonl(data / "prompts.jsonl", PromptRecord)
    return not isinstance(records[0].prompt, str)


def _choose(
    config: RunConfig, round_number: int, inputs: dict[str, Path], records: list[PromptRecord], place: Path
) -> list[dict[str, Any]]:
    """The choice for each record, in order. Equal prompts are answered once and have equal rows."""
    output, prompts = place / "output", place / "prompts"
    for path in (output, prompts):
        path.mkdir()
    write_jsonl(prompts / "prompts.jsonl", {record.prompt_id: record for record in records}.values())
    stage = across_languages(CHOOSE) if config.respond == "pivot" else CHOOSE
    ask(stage, round_number, config, inputs | {"prompts": prompts}, place, output, "choosing")
    rows = [json.loads(line) for line in (output / "chosen.jsonl").read_text(encoding="utf-8").splitlines()]
    by_id = {row["prompt_id"]: row for row in rows}
    return [by_id[record.prompt_id] for record in records]


def _without_candidates(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "candidates"}
