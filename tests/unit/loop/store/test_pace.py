"""The pace of a stage, by a clock that the test moves."""

import pytest

from loop.store.pace import Pace, samples_in_a_step
from loop.store.progress import Progress


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def look(pace, clock, at, done, total=40):
    clock.now = at
    return pace.look(Progress(done, total))


def test_pace_and_time_left(clock):
    """10 steps in 5 s are 2 a second; the other 28 steps take 14 s."""
    pace = Pace(clock)
    assert look(pace, clock, 100, 2) == 2 and pace.steps_per_second is None and pace.seconds_left is None
    assert look(pace, clock, 105, 12) == 10
    assert pace.steps_per_second == pytest.approx(2.0) and pace.seconds_left == pytest.approx(14.0)


def test_a_stage_that_stands_still_becomes_slower(clock):
    """A step took 0.5 s. At 105.5 the next one is due. Five seconds later, 10 steps have taken 10 s."""
    pace = Pace(clock)
    look(pace, clock, 100, 2)
    look(pace, clock, 105, 12)
    clock.now = 105.5
    assert pace.steps_per_second == pytest.approx(2.0)
    clock.now = 110.5
    assert pace.steps_per_second == pytest.approx(1.0)


def test_another_count_begins_anew(clock):
    """As in `retrain`: 40 steps of training, then 16 samples."""
    pace = Pace(clock)
    look(pace, clock, 100, 30)
    look(pace, clock, 110, 40)
    assert look(pace, clock, 111, 4, total=16) == 4 and pace.steps_per_second is None
    assert look(pace, clock, 113, 12, total=16) == 8
    assert pace.steps_per_second == pytest.approx(4.0) and pace.seconds_left == pytest.approx(1.0)


def test_only_the_last_minute_counts(clock):
    """One step a second for 100 s, then ten a second: after a minute of that, the pace is ten."""
    pace = Pace(clock)
    for second in range(101):
        look(pace, clock, second, second, total=10**6)
    for second in range(1, 70):
        look(pace, clock, 100 + second, 100 + 10 * second, total=10**6)
    assert pace.steps_per_second == pytest.approx(10.0)


def test_samples_in_a_step():
    config = {"ppo": {"batch_size": 64}}
    assert samples_in_a_step({"val/response_length": 7.5, "objective/kl": 0.1}, config) == (64, 7.5)
    assert samples_in_a_step({"length": 5.25}, config) == (1, 5.25)
    assert samples_in_a_step({"loss": 0.5}, config) == (0, 0.0)
