"""What the terminal prints when a stage is finished, on a pipe, and when it should be quiet."""

import json
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loop.store.journal import fold, read_events
from loop.store.progress import Progress
from loop.terminal import Terminal
from tests.unit.loop.fake_executor import FakeDriver


def test_a_finished_stage_has_one_line_and_one_for_each_warning(capsys):
    """Texts may hold control characters and markup; both are shown and do nothing."""
    Terminal().stage_done("setup/sft", 12.3, {"loss": 0.66})
    assert capsys.readouterr().out.splitlines() == ["setup/sft              12.3 s  loss 0.66"]
    Terminal().stage_done("setup/sft", 12.3, {"loss": 0.66, "warnings": ["it is\nlate \x1b[2J", "[red]again[/red]"]})
    assert capsys.readouterr().out.splitlines() == [
        "setup/sft              12.3 s  loss 0.66",
        "  warning: it is late \\u001b[2J",
        "  warning: [red]again[/red]",
    ]


@pytest.mark.parametrize("forced", [False, True])
def test_a_pipe_gets_no_live_view(capsys, monkeypatch, forced):
    """Where FORCE_COLOR is set, as on servers that build software, a log would have thousands of pictures of it."""
    if forced:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
    with Terminal().stage("round-000/policy", "x") as show:
        show(Progress(3, 40, {"objective/kl": 0.5}, ["an answer"]))
    assert "".join(capsys.readouterr()) == ""


@pytest.mark.parametrize("is_quiet", [False, True])
def test_a_warning_of_a_running_stage_is_printed_once(capsys, is_quiet):
    """Every progress after the alarm has it. On a terminal it stands in the live view instead."""
    with Terminal(is_quiet).stage("round-000/policy", "x") as show:
        for done in range(28, 33):
            show(Progress(done, 80, {}, [], "it \x1b[2Jcheats" if done >= 30 else ""))
    assert capsys.readouterr().out == "round-000/policy, 30 of 80: it \\u001b[2Jcheats\n"


def test_a_terminal_that_cannot_move_its_cursor_gets_the_warning_as_a_line(monkeypatch):
    """In a shell inside Emacs, for example. rich draws no live view there."""
    reader, writer = os.openpty()
    monkeypatch.setenv("TERM", "dumb")
    with os.fdopen(reader, "rb", buffering=0) as screen, os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with Terminal().stage("round-000/policy", "x") as show:
            show(Progress(30, 80, {}, [], "it cheats"))
        output.flush()
        written = os.read(screen.fileno(), 1 << 16) if select.select([screen], [], [], 5.0)[0] else b""
    assert written.decode().splitlines() == ["round-000/policy, 30 of 80: it cheats"]


@pytest.mark.parametrize("columns", ["40", "400"])
def test_nothing_of_a_table_is_cut_off(monkeypatch, capsys, columns):
    """Neither on a pipe nor in a narrow terminal, which breaks the lines."""
    monkeypatch.setenv("COLUMNS", columns)
    headers = ["stage", *(f"select.judged.features.pairwise-{number}" for number in range(9))]
    rows = [["round-000/policy", *("1.234 ± 0.123" for _ in range(9))], ["[red]x[/red]\x1b", *("" for _ in range(9))]]
    for force in ({}, {"FORCE_COLOR": "1", "TERM": "xterm"}):
        for name, value in force.items():
            monkeypatch.setenv(name, value)
        Terminal().table("after the last round", headers, rows)
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in capsys.readouterr().out.split("\n")]
        assert lines[0] == "after the last round" and lines[2].split() == headers
        assert lines[4].split() == ["round-000/policy", *["1.234", "±", "0.123"] * 9] and lines[5].split() == ["[red]x[/red]\\u001b"]


def test_quiet_means_warnings_only(capsys):
    terminal = Terminal(is_quiet=True)
    terminal.say("the dashboard is there")
    terminal.stage_done("setup/sft", 12.3, {"loss": 0.66})
    assert capsys.readouterr().out == ""
    terminal.stage_done("round-000/reward", 1.0, {"warnings": ["it knows no more than words"]})
    assert capsys.readouterr().out.splitlines() == ["round-000/reward        1.0 s", "  warning: it knows no more than words"]


def test_a_terminal_gets_a_live_view_that_is_gone_when_the_stage_is(monkeypatch):
    """In a pseudo-terminal of 80 columns. A line that is said meanwhile stays."""
    reader, writer = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with os.fdopen(reader, "rb", buffering=0) as screen, os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        terminal = Terminal()
        with terminal.stage("round-000/policy", "x") as show:
            show(Progress(3, 40, {"objective/kl": 0.5}, [f"score 1.50\n{'long ' * 40}\n\x1b[2Jno"]))
            terminal.say("a line")
            time.sleep(0.6)  # two pictures
        terminal.say("the end")
        output.flush()
        written = b""
        while b"the end" not in written and select.select([screen], [], [], 10.0)[0]:
            written += os.read(screen.fileno(), 1 << 16)  # a pseudo-terminal gives 4 kB at a time
    shown = written.decode()
    assert "3 of 40" in shown and "kl 0.50" in shown and "score 1.50" in shown and "\\u001b[2Jno" in shown
    assert "\x1b[2J" not in shown and "long " * 16 not in shown
    assert "a line" in shown and shown.rstrip().endswith("the end")
    pictures, cleared = shown.count("3 of 40"), shown.rpartition("3 of 40")[2]
    assert pictures >= 2 and "\x1b[2K" in cleared  # the last picture is erased


LIST = "import sys; from loop.commands.main import program; sys.argv = ['loop', 'list', '--runs', 'runs']; program()"
RUN = """
import sys
from pathlib import Path
from unittest.mock import patch
from loop.commands.main import program
from loop.terminal import Terminal
from tests.unit.loop.fake_executor import FakeDriver
driver = FakeDriver(Path("runs/x"))
driver.terminal = Terminal()
sys.argv = ["loop", "list"]
with patch("loop.commands.list_runs.run", lambda options: driver.execute()):
    program()
"""


def run_program(program, folder, **variables):
    """Run a program of Python in a folder, and return its exit code, and what it has printed in both ways."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONUNBUFFERED", "PYTHONUTF8")}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[3])} | variables
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=folder, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-11"])
def test_a_terminal_in_another_encoding_gets_all_text(tmp_path, encoding):
    """Letters that it does not have, such as `±`, are written as JSON would. JSON stays the same JSON."""
    name = "น้ำใจ-é-🐘"
    FakeDriver(tmp_path / "runs" / name.replace("🐘", "x")).execute()
    listed = LIST.replace("'runs']", "'runs', '--json']")
    code, out, err = run_program(listed, tmp_path, PYTHONIOENCODING=encoding)
    assert (code, err) == (0, b"") and json.loads(out.decode(encoding))["runs"][0]["run"] == "น้ำใจ-é-x"
    said = f"from loop.printing import accept_all_text; accept_all_text(); from loop.terminal import Terminal; Terminal().say({name!r})"
    code, out, err = run_program(said, tmp_path, PYTHONIOENCODING=encoding)
    assert (code, err) == (0, b"") and json.loads(f'"{out.decode(encoding).strip()}"') == name


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_that_takes_the_output_is_one_message(tmp_path):
    FakeDriver(tmp_path / "runs" / "x").execute()
    full = f"import os, sys; os.dup2(os.open('/dev/full', os.O_WRONLY), 1); {LIST}"
    code, _, err = run_program(full, tmp_path)
    assert (code, err.decode().splitlines()) == (4, ["error: the disk is full, so what this command prints is not whole"])


@pytest.mark.parametrize(("program", "code", "said"), [(LIST, 0, ""), (RUN, 130, "interrupted: ")])
def test_a_reader_that_has_ended_is_no_error(tmp_path, program, code, said):
    """As with `loop list | head`. Python writes to a pipe late, so the error may come when the command is over. A run is interrupted."""
    FakeDriver(tmp_path / "runs" / "before").execute()
    reads, writes = os.pipe()
    os.close(reads)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", program], stdout=writes, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    os.close(writes)
    assert (done.returncode, done.stderr[: len(said)]) == (code, said) and "BrokenPipe" not in done.stderr
    if said:
        assert fold(read_events(tmp_path / "runs" / "x" / "journal.jsonl")).state == "interrupted"
