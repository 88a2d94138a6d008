"""What the driver costs and checks, on run directories whose stages compute nothing (`fake_fleet.py`)."""

import sys
from collections import Counter

import pytest

from tests.unit.loop.fake_fleet import FakeDriver


@pytest.fixture
def opened():
    """Counts the files that Python opens, by path. An audit hook sees every way to open a file, and cannot be taken off again."""
    counts: Counter[str] = Counter()
    watching = [True]

    def hook(event: str, arguments: tuple) -> None:
        if watching[0] and event == "open" and isinstance(arguments[0], str):
            counts[arguments[0]] += 1

    sys.addaudithook(hook)
    yield counts
    watching[0] = False


def test_the_cost_of_a_resume_is_linear_in_the_number_of_rounds(tmp_path, opened, monkeypatch):
    """Files opened by a start that finds so many finished rounds and makes one more."""
    monkeypatch.setattr("os.fsync", lambda handle: None)  # thousands of them take half a minute, and none opens a file
    folder, journal, artifacts = tmp_path / "long", {}, {}
    for rounds in (10, 40, 200):
        FakeDriver(folder, num_rounds=rounds).execute()
        opened.clear()
        driver = FakeDriver(folder, num_rounds=rounds + 1)
        driver.execute()
        assert len(driver.made) == 7
        journal[rounds] = opened[str(folder / "journal.jsonl")]
        artifacts[rounds] = sum(count for path, count in opened.items() if f"{folder}/round-" in path)
    print("files opened by a resume, by finished rounds:", {"journal": journal, "artifacts": artifacts})
    # The journal is read once. Each added line opens it twice: to look at its last byte, and to write. The lines of such a start are
    # run_started, two for each of the seven new stages, and run_done: 1 + 2 x (1 + 2 x 7 + 1) = 33, however many rounds there are.
    assert set(journal.values()) == {33}
    assert (artifacts[200] - artifacts[40]) / 160 == (artifacts[40] - artifacts[10]) / 30 <= 7 * 6
