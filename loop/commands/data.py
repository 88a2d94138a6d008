"""`data`: what a run would make of its original pairs, without a run: the ledger, duplicates, contradictions, lengths and languages.

A child process reads the rows (`rewards/curation/program.py`); this one prints what it has found. It writes nothing but the file of
`--json`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.errors import LoopError, UserError
from configs.loading import Given, read_given
from configs.schema import RunConfig
from loop.commands.arguments import add_config_and_settings, add_rounds, config_and_settings, find_run, new_file, runs_folder
from loop.executors.executor import child_environment
from loop.failures import TRACEBACK_LINES, disk_errors_explained
from loop.ledger import run_ledger
from loop.printing import printable
from loop.store.artifacts import write_synced
from loop.store.journal import RunState, fold, read_events
from loop.store.layout import RunFolder
from loop.store.progress import Progress
from loop.store.run_config import read_config
from loop.terminal import Terminal
from rewards.curation.ledger import Ledger, reasons, table
from rewards.data.sources import find_sources

HELP = "show what a run would make of its data, without a run: removed, moved and kept rows by source, duplicates, lengths, languages"
NAMED_ROWS = 4
"""How many rows that cannot be used are named in the table for each reason."""
LENGTHS = ("texts", "5 %", "25 %", "50 %", "75 %", "95 %", "longest")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `data`."""
    add_config_and_settings(parser)
    add_rounds(parser)
    parser.add_argument("--config", dest="file", metavar="FILE", help="the same YAML file or preset, as `run` takes it")
    parser.add_argument("--name", metavar="RUN", help="a run that exists: its settings, and what its rounds have generated so far")
    parser.add_argument("--json", metavar="FILE", help="also write everything into this file, as one JSON object")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    file, settings = config_and_settings(options.settings)
    if file and options.file:
        raise UserError("the config is named twice", f"{file} and --config {options.file}", "leave one of them out")
    given, state = read_given(options.file or file, settings, num_rounds=options.rounds), RunState()
    if options.name:
        folder = RunFolder(find_run(runs_folder(options).resolve(), options.name))
        state = fold(read_events(folder.journal))
        given = given.over(read_config(folder.path, state), str(folder.config))
    config, terminal = _resolve(given), Terminal()
    target = _target(options.json, config) if options.json else None
    with terminal.stage("reading rows") as show:
        found = _survey(config, lambda rows: show(Progress(rows)))
    ledger = Ledger.from_json(found["ledger"])
    generated = run_ledger(state)
    for source, entry in generated.sources.entries.items() if generated else ():
        ledger.entry(source).generated = entry.generated
    _print(terminal, ledger, found)
    if target is not None:
        whole = found | {"ledger": ledger.as_json(), "rounds": generated.as_json()["rounds"] if generated else []}
        with disk_errors_explained(target.absolute().parent):
            write_synced(target, printable(json.dumps(whole, indent=2, ensure_ascii=False)) + "\n")  # a file's name may be any bytes
    return 0


def _target(word: str, config: RunConfig) -> Path:
    """The file of `--json`. Raises UserError where none can be written, before all rows are read, and for a file of the data."""
    return new_file(word, "what is found", [file for source in find_sources(config.data) for file in source.files])


def _resolve(given: Given) -> RunConfig:
    """The config. Who labels does not matter here, so data of the user's own may come without a labeler."""
    is_own = given.get(("data", "source"), "embedded") != "embedded" or given.get(("data", "sources"))
    if is_own and given.get(("labeler", "kind")) is None:
        given.set(("labeler",), {"kind": "preferences-file", "path": "labels.jsonl"}, "loop data")
    return given.resolve()


def _survey(config: RunConfig, show: Callable[[int], None]) -> dict[str, Any]:
    """What the child process finds. Raises UserError for data that cannot be read, and LoopError where the child fails."""
    environment = child_environment(PYTHONWARNINGS="ignore", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    command = [sys.executable, "-P", "-m", "rewards.curation.program"]
    request, pipe = json.dumps({"config": config.model_dump(mode="json")}), subprocess.PIPE
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, encoding="utf-8", env=environment) as child:
            assert child.stdin and child.stdout
            child.stdin.write(request)
            child.stdin.close()
            for line in child.stdout:
                message = json.loads(line)
                if "rows" in message:
                    show(message["rows"])
                elif "error" in message:
                    raise UserError(*message["error"])
                else:
                    return message["survey"]
        errors.seek(0)
        end = "\n".join(errors.read().strip().splitlines()[-TRACEBACK_LINES:])
    raise LoopError(f"the data could not be read (exit code {child.returncode}):\n{end}")


def _print(terminal: Terminal, ledger: Ledger, found: dict[str, Any]) -> None:
    """All tables. Those that would be empty are left out."""
    rounds = sorted({name for entry in ledger.entries.values() for name in entry.generated})
    _table(terminal, "ledger (rows; original = removed + moved + kept)", *table(ledger, rounds))
    _table(terminal, "removed and moved", *reasons(ledger))
    unusable = [[reason, str(row["rows"]), _in_short(row)] for reason, row in sorted(found["unusable"].items())]
    _table(terminal, "rows that cannot be used (--json names more of them)", ["reason", "rows", "which"], unusable)
    _table(terminal, "rows that repeat an earlier row", ["kind", "rows"], _repeated(found))
    _table(
        terminal, "lengths in characters", ["text, script", *LENGTHS], [[name, *map(str, row)] for name, row in found["lengths"].items()]
    )
    mix = [[f"{source}: {names}", str(count)] for source, row in found["languages"].items() for names, count in row.items()]
    _table(terminal, "languages by script (prompt -> chosen answer)", ["source: scripts", "rows"], mix)


def _in_short(unusable: dict[str, Any]) -> str:
    """The first places of rows that cannot be used. The name of a file is said once."""
    shown: list[str] = []
    last = ""
    for place in unusable["places"][:NAMED_ROWS]:
        file, _, row = place.rpartition(", ")
        shown.append(row if file == last else place)
        last = file
    return "; ".join(shown) + ("; ..." if unusable["rows"] > len(shown) else "")


def _repeated(found: dict[str, Any]) -> list[list[str]]:
    """The rows of the table of duplicates and contradictions."""
    rows: list[tuple[str, int]] = []
    for kind, name in (("exact", "exact"), ("near", "nearly equal")):
        spread = found[kind]
        rows += [(f"{name}, within {source}", count) for source, count in spread["within"].items()]
        rows += [(f"{name}, {sources}", count) for sources, count in spread["across"].items()]
        rows.append((f"{name}, across the border of what is held out", spread["heldout"]))
    if found["near_prompts"] is not None:
        rows.append(("training prompts nearly equal to a held-out one", found["near_prompts"]))
    rows += [(f"contradictory pairs, {source}", count) for source, count in found["contradictions"].items()]
    rows.append(("pairs judged by several raters", found["several_raters"]))
    return [[name, str(count)] for name, count in rows]


def _table(terminal: Terminal, title: str, headers: list[str], rows: list[list[str]]) -> None:
    if rows:
        terminal.table(title, headers, rows)
