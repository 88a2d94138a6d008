"""Ctrl-C once, twice and three times, in a process of its own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
COMMAND = """
import sys, time
from pathlib import Path
from loop.signals import StopSignals

with StopSignals(lambda text: print(text, flush=True)) as signals:
    try:
        with signals.stage(Path(sys.argv[1])):
            print("ready", flush=True)
            time.sleep(60)
    except KeyboardInterrupt:
        print("leaving", flush=True)
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            print("not here", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_each_signal_is_more_urgent_than_the_one_before(tmp_path, number):
    stop = tmp_path / "stop"
    stop.touch()  # from an earlier attempt
    with subprocess.Popen([sys.executable, "-c", COMMAND, str(stop)], cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n" and not stop.exists()
        for said in ("finishing this step and saving; press Ctrl-C again to stop at once\n", "leaving\n"):
            process.send_signal(number)
            assert process.stdout.readline() == said and stop.exists()
        process.send_signal(number)
        assert process.wait(10) == 130 and process.stdout.read() == ""


def test_the_grace_is_bounded(tmp_path, monkeypatch):
    from loop.signals import GRACE_SECONDS, StopSignals

    signals = StopSignals(lambda text: None)
    clock = [time.monotonic()]
    monkeypatch.setattr("loop.signals.time.monotonic", lambda: clock[0])
    with signals.stage(tmp_path / "stop"):
        signals.check_grace()
        signals._handle(signal.SIGINT, None)
        assert signals.asked and (tmp_path / "stop").exists()
        signals.check_grace()
        clock[0] += GRACE_SECONDS + 1
        with pytest.raises(KeyboardInterrupt):
            signals.check_grace()
