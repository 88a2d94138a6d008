"""What the driver costs and what it checks, on runs whose stages compute nothing (`fake_executor.py`)."""

import hashlib
import os
import shutil
import sys
from collections import Counter
from contextlib import suppress
from itertools import count
from unittest.mock import Mock

import pytest

from configs import UserError, load_config
from loop.commands.main import main
from loop.executors.executor import Startup
from loop.keys import planned_keys
from loop.round import BASE, DATA, POLICY, REWARD
from loop.store.journal import Journal, read_events
from loop.store.layout import RunFolder
from loop.store.stage_library import StageLibrary
from loop.store.upkeep import verify
from tests.unit.loop.fake_executor import FakeDriver, FakeExecutor


@pytest.fixture
def opened():
    """Counts the files that Python opens, by path. An audit hook sees every way to open a file, and cannot be removed."""
    counts: Counter[str] = Counter()
    watching = [True]

    def hook(event: str, arguments: tuple) -> None:
        if watching[0] and event == "open" and isinstance(arguments[0], str):
            counts[arguments[0]] += 1

    sys.addaudithook(hook)
    yield counts
    watching[0] = False


def test_the_cost_of_a_resume_is_linear_in_the_number_of_rounds(tmp_path, opened):
    """Counts the files that are opened by a start which finds 5, 15 or 40 finished rounds and makes one more."""
    folder, journal, artifacts = tmp_path / "long", {}, {}
    for rounds in (5, 15, 40):
        FakeDriver(folder, num_rounds=rounds).execute()
        opened.clear()
        driver = FakeDriver(folder, num_rounds=rounds + 1)
        driver.execute()
        assert len(driver.made) == 9
        journal[rounds] = opened[str(folder / "journal.jsonl")]
        artifacts[rounds] = sum(count for path, count in opened.items() if f"{folder}/round-" in path)
    print("files opened by a resume, by finished rounds:", {"journal": journal, "artifacts": artifacts})
    # The journal is read once. Each added line opens it twice: to check its last byte, and to write. Such a start adds run_started, two
    # lines for each of the nine new stages, and run_done: 1 + 2 x (1 + 2 x 9 + 1) = 41, for any number of rounds.
    assert set(journal.values()) == {41}
    assert (artifacts[40] - artifacts[15]) / 25 == (artifacts[15] - artifacts[5]) / 10 <= 9 * 6


def test_a_stage_that_was_deleted_and_made_again_is_whole(tmp_path, monkeypatch):
    """Each stage of a run in turn. The clock stands still, so the new manifest equals the old one to the last byte."""
    folder = tmp_path / "x"
    monkeypatch.setattr("loop.driver.time.monotonic", lambda: 0.0)
    FakeDriver(folder, num_rounds=2).execute()
    whole, digests = verify(folder), FakeDriver(folder).digests()
    assert whole == ([], len(planned_keys(load_config(num_rounds=2)))) and all(digests.values())
    for final in sorted(path.parent for path in folder.glob("*/*/manifest.json")):
        before = (final / "manifest.json").read_bytes()
        shutil.rmtree(final)
        driver = FakeDriver(folder, num_rounds=2)
        driver.execute()
        assert driver.made in ([str(final.relative_to(folder))], [])  # the base comes from the cache
        assert (final / "manifest.json").read_bytes() == before
        assert verify(folder) == whole and driver.digests() == digests, final


def test_a_stage_made_again_with_other_bytes_is_named(tmp_path):
    """This happens on another kind of machine. The message explains why the later stages are made again."""
    folder = tmp_path / "x"
    FakeDriver(folder).execute()
    shutil.rmtree(folder / "setup" / "sft")
    driver = FakeDriver(folder)
    driver.executor.content = "other"
    driver.execute()
    assert [line.split(",")[0] for line in driver.terminal.lines if "other bytes" in line] == [
        "setup/sft: was made again with other bytes than before"
    ]
    assert "round-000/policy" in driver.made and verify(folder)[0] == []


def test_every_run_on_one_executor_journals_where_to_look(tmp_path):
    """Only the first run has started Ray. No address is written twice."""

    class OnRay(FakeExecutor):
        def start(self):
            if self.startup:
                return None
            self.startup = Startup({"ray": 2.0}, "http://127.0.0.1:8265", "http://127.0.0.1:9999/metrics")
            return self.startup

    executor, startups = OnRay(), []
    for name in ("a", "b"):
        run = FakeDriver(tmp_path / name, executor=executor)
        run.execute()
        (told,) = [event for event in read_events(run.paths.journal) if event.dashboard]
        assert (told.dashboard, told.prometheus) == ("http://127.0.0.1:8265", "http://127.0.0.1:9999/metrics")
        startups.append(told.startup)
    assert startups == [{"ray": 2.0}, None]


def test_a_config_of_another_version_is_refused_in_one_message(tmp_path, capsys):
    """The run's `config.yaml` has a setting that this version does not know."""
    runs = tmp_path / "runs"
    FakeDriver(runs / "x").execute()
    path = runs / "x" / "config.yaml"
    path.write_text(path.read_text() + "temperature_schedule: cosine\n")
    Journal(runs / "x" / "journal.jsonl").append("run_started", num_rounds=1, config=hashlib.sha256(path.read_bytes()).hexdigest())
    for words in (["--name", "x"], ["--name", "x", "--fork", "y"]):
        assert main(["run", "--runs", str(runs), *words]) == 2
        said = capsys.readouterr().err
        assert "there is no setting 'temperature_schedule'" in said and str(path) in said and "use the version of loop" in said
    assert [path.name for path in runs.iterdir()] == ["x"]


def test_an_edited_config_is_named_by_run_and_by_verify(tmp_path):
    """Settings that are not given on the command line are taken from config.yaml, so an edit would change the run."""
    folder = tmp_path / "x"
    FakeDriver(folder).execute()
    path = folder / "config.yaml"
    before = path.read_text()
    path.write_text(before.replace("seed: 0", "seed: 1"))
    assert verify(folder)[0] == [f"{path}: is not what the run was started with"]
    for driver in (FakeDriver(folder, num_rounds=2), FakeDriver(folder, "seed=1", num_rounds=2)):
        with pytest.raises(UserError, match="is not what the run was started with"):
            driver.execute()
    path.unlink()  # the other way out: all settings are given again
    assert FakeDriver(folder, num_rounds=2).execute() is None and verify(folder)[0] == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"{\xb0" + whole[2:],  # one bit of the second byte, so this is no text any more
        lambda whole: whole.replace(b'"digest"', b'"digesu"'),
        lambda whole: whole.replace(b'"schema": 2', b'"schema": "2"'),
        lambda whole: b"[]",
    ],
)
def test_a_damaged_manifest_is_refused_in_one_message(tmp_path, damage):
    folder = tmp_path / "x"
    FakeDriver(folder).execute()
    manifest = folder / "setup" / "data" / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(damage(whole))
    assert manifest.read_bytes() != whole
    with pytest.raises(UserError, match="data is damaged: .*manifest.json"):
        FakeDriver(folder).execute()


@pytest.mark.parametrize("line_is_written", [False, True])
def test_killed_while_the_config_is_written(tmp_path, monkeypatch, line_is_written):
    """A start with one more round writes to the journal, then to config.yaml. Killed before either step, the run can continue."""
    folder = tmp_path / "x"
    FakeDriver(folder).execute()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            "loop.store.artifacts.write_synced" if line_is_written else "loop.store.journal.Journal.append",
            Mock(side_effect=KeyboardInterrupt),
        )
        FakeDriver(folder, num_rounds=2).execute()
    assert verify(folder)[0] == []
    FakeDriver(folder, num_rounds=2).execute()
    assert verify(folder) == ([], len(planned_keys(load_config(num_rounds=2))))


class Crash(BaseException):
    """Nothing catches it, just as nothing catches a SIGKILL."""


def crashing(step, steps, point):
    """A step that adds itself to `steps`, and raises instead once there are more than `point`."""

    def run(*arguments, **options):
        steps.append(step)
        if len(steps) > point:
            raise Crash
        return step(*arguments, **options)

    return run


def four_stages(run):
    """A run with every kind of step: a stage before round 0, the base, which is cached, and the first and a later stage of a round."""
    data, base = run.stage(DATA), run.stage(BASE)
    reward = run.stage(REWARD, 0, data=data, base=base)
    run.stage(POLICY, 0, data=data, base=base, rewards=[reward])


@pytest.mark.parametrize("copies", [False, True])
def test_a_crash_before_any_step_to_disk_changes_nothing(tmp_path, monkeypatch, copies):
    """The run crashes at each fsync, rename and replace in turn. The same command then ends with the same digests.

    copies: whether the stages are copied from another run.
    """
    FakeDriver(tmp_path / "undisturbed").execute(four_stages)
    library = StageLibrary([RunFolder(tmp_path / "undisturbed")]) if copies else None
    digests = FakeDriver(tmp_path / "undisturbed").digests()
    folder, points = tmp_path / "run", 0
    for points in count():
        shutil.rmtree(folder, ignore_errors=True)
        monkeypatch.setenv("LOOP_CACHE", str(tmp_path / f"cache-{points}"))
        steps = []
        with monkeypatch.context() as patch, suppress(Crash):
            for name in ("fsync", "rename", "replace"):
                patch.setattr(os, name, crashing(getattr(os, name), steps, points))
            FakeDriver(folder, library=library).execute(four_stages)
        driver = FakeDriver(folder, library=library)
        driver.execute(four_stages)
        assert verify(folder)[0] == [] and driver.digests() == digests, points
        assert not (copies and driver.made), points
        if len(steps) <= points:
            break
    # A stage: its file, directory and manifest, two lines of the journal, two renames, the round's directory.
    assert points > 8 * len(digests) == 8 * 4
