"""When the page continues the run, and what it does with the run's exit codes. The run and the desk are stand-ins."""

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

import loop
from loop.labeling import serving
from loop.store.layout import RunFolder


@dataclass
class Desk:
    """A desk on which somebody labels one pair more at each look, of ten. pairs_wanted: by round."""

    wanted_by_round: list[int]
    number: int = 0
    labeled: int = 0
    state: str = "asking"
    folder: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(name="x"))

    def look(self) -> None:
        self.labeled = min(10, self.labeled + 1)

    @property
    def queue(self) -> SimpleNamespace:
        agreement = SimpleNamespace(pairs=0)
        asked = SimpleNamespace(number=self.number, label_file=Path("labels"))
        counts = {"labeled": self.labeled, "wanted": self.wanted_by_round[self.number], "pairs": range(10)}
        return SimpleNamespace(asked=asked, agreement=lambda: agreement, by_rater=dict, **counts)

    @property
    def is_enough(self) -> bool:
        return self.labeled >= self.wanted_by_round[self.number]


@pytest.fixture
def watch(monkeypatch):
    """Have a page watch a desk. resume: what a run does, given the desk: it returns an exit code. Returns the page's own exit code."""
    for name in ("GRACE_SECONDS", "GOODBYE_SECONDS", "TICK_SECONDS"):
        monkeypatch.setattr(serving, name, 0.0)

    def run(desk, resume):
        async def fake(*_):
            return resume(desk)

        async def go():
            return await asyncio.wait_for(serving._watch(desk, asyncio.Event()), 20)

        monkeypatch.setattr(serving, "_resume", fake)
        return asyncio.run(go())

    return run


def test_the_page_goes_on_with_the_next_round_and_ends_with_the_run(watch):
    seen = []

    def resume(desk):
        seen.append((desk.number, desk.labeled >= desk.wanted_by_round[desk.number]))
        desk.number, desk.labeled = desk.number + 1, 0
        return 3 if desk.number < 3 else 0

    assert watch(Desk([2, 4, 3, 1]), resume) == 0
    assert seen == [(0, True), (1, True), (2, True)]


def test_a_run_that_wants_more_is_asked_again_when_more_pairs_are_labeled(watch):
    """It said that three labels are enough, and waits on. The second try is not with the same labels, and before all ten are there."""
    seen = []

    def resume(desk):
        seen.append(desk.labeled)
        return 3 if len(seen) == 1 else 0

    assert watch(Desk([3]), resume) == 0
    assert 3 <= seen[0] < seen[1] < 10 and len(seen) == 2


@pytest.mark.parametrize("code", [2, 4, 130])
def test_the_exit_code_of_a_run_that_fails_is_that_of_the_page(watch, code):
    assert watch(Desk([1]), lambda desk: code) == code


def test_a_run_that_another_process_has_ended(watch, monkeypatch):
    monkeypatch.setattr(serving, "state_of", lambda folder: "done")
    assert watch(Desk([1], state="over"), lambda desk: 4) == 0


def test_the_run_of_an_experiment_is_continued_by_this_very_program(monkeypatch):
    """The run is found in the folder of its experiment, and a folder called `loop` where the user is shadows nothing (`-P`)."""
    started = {}

    async def start(*words, **options):
        started.update(words=words, **options)
        return SimpleNamespace(wait=lambda: asyncio.sleep(0, 3))

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    monkeypatch.setenv("PYTHONPATH", "theirs")
    desk = Desk([1], folder=RunFolder(Path("/runs/experiment/seed-1")))

    async def go():
        return await serving._resume(desk, asyncio.Event())

    assert asyncio.run(go()) == 3
    assert started["words"][1:] == ("-P", "-m", "loop", "resume", "seed-1", "--runs", "/runs/experiment")
    assert started["env"]["PYTHONPATH"].split(os.pathsep) == [str(Path(loop.__file__).parents[1]), "theirs"]
