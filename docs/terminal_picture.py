"""Draws the picture of the live terminal that the README shows: what `loop run` writes to a real terminal, at one moment.

    python -m docs.terminal_picture

It starts two rounds of the embedded default in a pseudo-terminal, waits until PPO of the second round is at update 60 of 80, and stops the
run with Ctrl-C. That takes about three minutes.
"""

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

FILE = Path(__file__).parent / "images" / "terminal.svg"
COLUMNS, ROWS, SHOWN, LIVE = 120, 40, 24, 10
MOMENT = ("round-001,", " 60 of 80 ")
UP = re.compile(r"\x1b\[1A\x1b\[2K")
OTHER_CONTROL = re.compile(r"\x1b\[(?:2K|\?25[lh])|\r")


def screen(written: str) -> list[str]:
    """The lines that the terminal shows. rich draws a live view again by deleting its lines from below, one by one."""
    lines = [""]
    for part in re.split(r"(\x1b\[1A\x1b\[2K|\n)", written):
        if part == "\n":
            lines.append("")
        elif UP.fullmatch(part):
            del lines[-1]
            lines[-1:] = [""]
        else:
            lines[-1] += OTHER_CONTROL.sub("", part)
    return lines


def watch(command: list[str], moment: Sequence[str]) -> str:
    """What the command has written to its terminal by the moment when these texts are at its end. Raises RuntimeError if they never are."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {
        "TERM": "xterm-256color",
        "COLUMNS": str(COLUMNS),
    }
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True)
    os.close(theirs)
    written = b""
    try:
        while process.poll() is None:
            written += os.read(ours, 65536)
            text = written.decode(errors="ignore")
            if all(words in "\n".join(screen(text[-50_000:])[-LIVE:]) for words in moment):
                return text
    except OSError:  # the command has ended and closed its side
        pass
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            while process.poll() is None:
                try:
                    os.read(ours, 65536)
                except OSError:
                    break
            process.wait()
    raise RuntimeError(f"{moment!r} was never on the screen:\n" + "\n".join(screen(written.decode(errors="ignore"))[-ROWS:]))


def main() -> None:
    with tempfile.TemporaryDirectory() as runs:
        written = watch([sys.executable, "-m", "loop", "run", "--rounds", "2", "--runs", runs, "--name", "embedded"], MOMENT)
    lines = screen(written)
    while not lines[-1].strip():
        del lines[-1]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ loop run --rounds 2"))
    for line in lines[-SHOWN:]:
        text = Text.from_ansi(line)
        text.truncate(COLUMNS, overflow="ellipsis")
        console.print(text, no_wrap=True)
    FILE.write_text(console.export_svg(title="loop"), encoding="utf-8")


if __name__ == "__main__":
    main()
