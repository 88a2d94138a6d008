"""The live view, drawn as a terminal of 100 columns would show it."""

import io

import pytest
from rich.console import Console

from loop.live_view import LiveView, clock, seconds_left
from loop.printing import UNPRINTABLE
from loop.round import ROUND_STAGES
from loop.store.journal import Event, RunState, fold
from loop.store.progress import Progress

STAGES = [stage.name for stage in ROUND_STAGES]


def finished(round_number, stage, seconds):
    return Event(event="stage_committed", round=round_number, stage=stage, seconds=seconds, metrics={})


@pytest.fixture
def state():
    """The policy of the second of three rounds is made. Each stage of the first round took 10 s."""
    events = [Event(event="run_started", num_rounds=3), *(finished(0, stage, 10.0) for stage in STAGES)]
    return fold([*events, finished(1, "reward", 4.0), Event(event="stage_started", round=1, stage="policy")])


def drawn(view, width=100):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False)
    console.print(view)
    return console.file.getvalue()


def test_the_view_says_where_the_run_is(state):
    view = LiveView("round-001/policy", "x", state)
    view.look(Progress(18, 40, {"objective/scores": 1.24, "objective/kl": 3.1, "policy/entropy_avg": 0.42}, ["score 1.93\nWhy?\nBecause."]))
    lines = drawn(view).splitlines()
    assert lines[0].startswith("x   round-001, 2 of 3   the run takes about 2:")
    assert lines[1].split() == ["reward", "✓", "policy", "sample", "answer", "label", "retrain", "select", "keep", "evaluate"]
    assert "18 of 40" in lines[2]
    assert lines[3:] == ["scores 1.24, kl 3.10, entropy 0.42", "  score 1.93", "  Why?", "  Because."]


def test_a_warning_stands_above_the_sample(state):
    view = LiveView("round-001/policy", "x", state)
    view.look(Progress(30, 80, {"objective/kl": 3.1}, ["an answer"], "the policy may exploit its reward"))
    assert drawn(view).splitlines()[3:] == ["kl 3.10", "warning: the policy may exploit its reward", "  an answer"]


def test_the_newest_sample_stays_until_there_is_another(state):
    view = LiveView("round-001/policy", "x", state)
    view.look(Progress(1, 40, {}, ["an answer"]))
    view.look(Progress(2, 40))
    assert "an answer" in drawn(view)


def test_before_round_0_and_without_a_run():
    setup = fold([Event(event="run_started", num_rounds=2), finished(None, "data", 1.0), Event(event="stage_started", stage="base")])
    lines = drawn(LiveView("setup/base", "x", setup)).splitlines()
    assert lines[0] == "x   before round 0 of 2 rounds" and lines[1].split() == ["data", "✓", "base", "filter", "sft", "baseline"]
    assert drawn(LiveView("starting the workers")).splitlines()[0] == "starting the workers"


def test_the_time_that_the_run_still_takes(state):
    """Of round 1: 10 - 4 s of the policy, which has run for 4 s, and seven stages of 10 s. Of round 2: nine stages, of which `reward` takes
    the 4 s that it took last. 6 + 70 + 84 = 160. A pace that says 30 s of the policy makes it 184."""
    assert seconds_left(state, "round-001", "policy", 4.0, None) == pytest.approx(160.0)
    assert seconds_left(state, "round-001", "policy", 4.0, 30.0) == pytest.approx(184.0)


def test_the_first_round_has_no_estimate_of_the_run():
    first = fold(
        [Event(event="run_started", num_rounds=2), finished(0, "reward", 10.0), Event(event="stage_started", round=0, stage="policy")]
    )
    assert seconds_left(first, "round-000", "policy", 1.0, 5.0) is None
    assert seconds_left(RunState(), "setup", "base", 1.0, 5.0) is None


@pytest.mark.parametrize(
    "nasty", ["\x1b[2J\x1b]0;title\x07", "[bold red]x[/]", "\u202eright to left", "a" * 100_000, "\ud800", "\x00", "line\n" * 50, ":smile:"]
)
def test_a_sample_cannot_control_the_terminal(state, nasty):
    """It cannot make the view longer than the lines that are meant for it either."""
    view = LiveView("round-001/policy", "x", state)
    view.look(Progress(1, 40, {}, [f"begin {nasty}"]))
    shown = drawn(view)
    assert "begin" in shown and not UNPRINTABLE.search(shown.replace("\n", ""))
    assert len(shown.splitlines()) <= 3 + 6 and all(len(line) <= 100 for line in shown.splitlines())
    assert nasty not in ("[bold red]x[/]", ":smile:") or nasty in shown


def test_clock():
    assert [clock(seconds) for seconds in (0.4, 9, 750, 11_100)] == ["0:00", "0:09", "12:30", "3:05:00"]
