"""What the terminal prints when a stage is finished, on a pipe, and when it should be quiet."""

import os
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


def test_a_pipe_gets_no_live_view(capsys):
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
