"""A run copies the stages that another run has made by the same recipe, if they are whole."""

import shutil

import pytest

from configs.errors import LoopError, UserError
from loop.store import artifacts
from loop.store.journal import read_events
from loop.store.layout import RunFolder
from loop.store.stage_library import StageLibrary
from loop.store.upkeep import verify
from tests.unit.loop.fake_executor import FakeDriver

SETUP = [f"setup/{name}" for name in ("data", "base", "filter", "sft", "baseline")]
ROUND = [f"round-000/{name}" for name in ("reward", "policy", "sample", "answer", "label", "retrain", "select", "keep", "evaluate")]
LATE = "retrain.mixture_pairs=7"
"""A setting that only `retrain` reads."""


@pytest.fixture
def library(tmp_path):
    """The stages of one finished run, "first"."""
    FakeDriver(tmp_path / "first").execute()
    return StageLibrary([RunFolder(tmp_path / "first")])


def copied_from(driver):
    """For each stage that was copied, the run that it is from, according to the journal."""
    return {f"{e.round}/{e.stage}": e.copied_from for e in read_events(driver.paths.journal) if e.copied_from}


def test_only_the_stages_with_another_key_are_made(tmp_path, library):
    """The new `retrain` has other bytes, so the three stages after it have other keys too."""
    driver = FakeDriver(tmp_path / "second", LATE, library=library)
    driver.executor.content = "other"
    driver.execute()
    assert driver.made == ["round-000/retrain", "round-000/select", "round-000/keep", "round-000/evaluate"]
    names = [f"None/{name.split('/')[1]}" for name in SETUP] + [f"0/{name.split('/')[1]}" for name in ROUND[:5]]
    assert copied_from(driver) == dict.fromkeys(names, "first")
    assert "setup/sft            copied from first" in driver.terminal.lines
    assert verify(tmp_path / "second") == ([], 14) and verify(tmp_path / "first") == ([], 14)


def test_a_stage_made_anew_with_the_same_bytes_changes_nothing_after_it(tmp_path, library):
    driver = FakeDriver(tmp_path / "second", LATE, library=library)
    driver.execute()
    assert driver.made == ["round-000/retrain"]


def test_a_copy_is_the_same_stage_and_shares_no_file(tmp_path, library):
    driver = FakeDriver(tmp_path / "second", library=library)
    driver.execute()
    assert driver.made == [] and driver.digests() == FakeDriver(tmp_path / "first").digests()
    files = [path for path in (tmp_path / "second").rglob("*") if path.is_file()]
    assert not any(path.stat().st_nlink > 1 for path in files)
    for path in (tmp_path / "first").glob("*/*/*"):
        assert (tmp_path / "second" / path.relative_to(tmp_path / "first")).read_bytes() == path.read_bytes()


def test_what_is_made_now_can_be_copied_by_the_next_run(tmp_path):
    library = StageLibrary()
    for name in ("a", "b"):
        driver = FakeDriver(tmp_path / name, library=library)
        driver.execute()
        assert driver.made == ([*SETUP, *ROUND] if name == "a" else [])


def test_another_seed_shares_only_what_no_seed_changes(tmp_path, library):
    """`base` and `filter` read no seed, but `filter` depends on the data, whose bytes are the same in a fake run."""
    driver = FakeDriver(tmp_path / "second", "seed=5", library=library)
    driver.execute()
    assert set(copied_from(driver)) == {"None/base", "None/filter"}


@pytest.mark.parametrize("file", ["payload.txt", "manifest.json"])
def test_a_damaged_stage_of_another_run_is_not_copied(tmp_path, library, file):
    """It is named and made here. The other run stays as it is, and refuses its damaged stage itself."""
    damaged = tmp_path / "first" / "setup" / "sft" / file
    damaged.write_bytes(damaged.read_bytes() + b" ")
    driver = FakeDriver(tmp_path / "second", library=library)
    driver.execute()
    assert driver.made == ["setup/sft"]
    said = [line for line in driver.terminal.lines if "damaged" in line]
    assert len(said) == 1 and said[0].startswith("setup/sft: a stage of another run is damaged") and str(damaged) in said[0]
    assert verify(tmp_path / "second")[0] == [] and len(verify(tmp_path / "first")[0]) == 1
    with pytest.raises(UserError, match="sft is damaged"):
        FakeDriver(tmp_path / "first", num_rounds=2).execute()


def test_of_two_runs_the_whole_one_is_copied(tmp_path, library):
    FakeDriver(tmp_path / "second", library=library).execute()
    (tmp_path / "first" / "setup" / "sft" / "payload.txt").unlink()
    driver = FakeDriver(tmp_path / "third", library=library)
    driver.execute()
    assert driver.made == [] and copied_from(driver)["None/sft"] == "second" and copied_from(driver)["None/data"] == "first"


def test_a_stage_that_was_rewritten_with_its_manifest_is_not_copied(tmp_path, library):
    """The directory is whole by its own manifest, but the journal of its run vouches for another one."""
    final = tmp_path / "first" / "setup" / "sft"
    key = artifacts.find_committed(final, FakeDriver(tmp_path / "first").journal.state().stage("sft", None).committed.key).key
    payload = artifacts.begin(tmp_path / "elsewhere", key)
    (payload / "payload.txt").write_text("other")
    artifacts.commit(payload, final, key, {}, 1.0)
    assert artifacts.find_damage(final) == []
    driver = FakeDriver(tmp_path / "second", library=library)
    driver.execute()
    assert driver.made == ["setup/sft"] and any("is not what was committed" in line for line in driver.terminal.lines)


def test_a_stage_that_was_deleted_is_made_and_nothing_is_said(tmp_path, library):
    shutil.rmtree(tmp_path / "first" / "setup" / "sft")
    driver = FakeDriver(tmp_path / "first", num_rounds=2, library=library)
    driver.execute()
    assert driver.made[0] == "setup/sft" and not any("damaged" in line for line in driver.terminal.lines)


def test_an_unfinished_stage_is_no_stage(tmp_path):
    """The other run was made again and has not finished: its journal does not vouch for the directory that lies there."""
    driver = FakeDriver(tmp_path / "first")
    driver.execute()
    driver.journal.append("stage_started", stage="sft", key="another")
    second = FakeDriver(tmp_path / "second", library=StageLibrary([RunFolder(tmp_path / "first")]))
    second.execute()
    assert second.made == ["setup/sft"]


def test_a_full_disk_is_not_mistaken_for_damage(tmp_path, library, monkeypatch):
    def full(*_, **__):
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device")])

    monkeypatch.setattr("loop.store.artifacts.shutil.copytree", full)
    with pytest.raises(LoopError, match="the disk is full"):
        FakeDriver(tmp_path / "second", library=library).execute()
