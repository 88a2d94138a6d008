"""A fork is a whole run or nothing, and shares no file with its source."""

import pytest

from configs import UserError, load_config
from loop.forks import differences, fork
from loop.store import artifacts
from loop.store.upkeep import verify
from tests.unit.loop.fake_executor import FakeDriver

CHANGED = "ppo.num_updates=9"


@pytest.fixture
def source(tmp_path):
    """A finished run of one round."""
    FakeDriver(tmp_path / "old").execute()
    return tmp_path / "old"


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def config(*overrides):
    return load_config(overrides=overrides, name="new", num_rounds=1)


def test_a_fork_takes_over_the_stages_with_equal_keys(source):
    target, before = source.with_name("new"), contents(source)
    setup = [f"setup/{name}" for name in ("data", "base", "filter", "sft", "baseline")]
    assert fork(source, target, config(CHANGED)) == [*setup, "round-000/reward"]
    assert verify(target) == ([], 6)  # its journal vouches for the copies
    assert not any(path.stat().st_nlink > 1 for path in target.rglob("*") if path.is_file())
    driver = FakeDriver(target, CHANGED)
    driver.execute()
    assert driver.made[0] == "round-000/policy" and verify(target)[0] == []
    assert contents(source) == before and sorted(path.name for path in source.parent.iterdir()) == ["cache", "new", "old"]


def test_damage_in_one_run_is_not_damage_in_the_other(source):
    target = source.with_name("new")
    fork(source, target, config(CHANGED))
    with (source / "setup" / "sft" / "payload.txt").open("r+") as file:  # in place, so a hard link would change too
        file.write("X")
    assert len(verify(source)[0]) == 1 and verify(target)[0] == []


def test_settings_that_only_one_of_two_configs_gives_differ():
    plain, footer = config(), config("ppo.penalties={footer: 0.5}")
    assert differences(plain, plain) == []
    assert differences(plain, footer) == ["ppo.penalties.footer: nothing there, 0.5 now"]
    assert differences(footer, plain) == ["ppo.penalties.footer: 0.5 there, nothing now"]
    assert differences(footer, config("ppo.penalties={footer: 1, empty: 0}")) == [
        "ppo.penalties.empty: nothing there, 0.0 now",
        "ppo.penalties.footer: 0.5 there, 1.0 now",
    ]


def test_an_existing_run_is_refused_before_anything_is_touched(source):
    FakeDriver(source.with_name("new"), CHANGED).execute()
    before = contents(source.parent)
    with pytest.raises(UserError, match="there is a run 'new' already"):
        fork(source, source.with_name("new"), config(CHANGED))
    with pytest.raises(UserError, match="there is a run 'old' already"):
        fork(source, source, config(CHANGED))
    assert contents(source.parent) == before


@pytest.mark.parametrize("moment", range(7))
def test_a_fork_that_fails_half_way_leaves_nothing(source, monkeypatch, moment):
    """Stopped while it copies a stage, or before the new run gets its name. The next fork is whole."""
    before, calls = contents(source.parent), 0

    def stop(*arguments, then):
        nonlocal calls
        calls += 1
        if calls > moment:
            raise KeyboardInterrupt
        return then(*arguments)

    from loop import forks as module

    copy, sync = module.shutil.copytree, artifacts.sync_tree
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("loop.forks.shutil.copytree", lambda *arguments: stop(*arguments, then=copy))
        patch.setattr("loop.forks.artifacts.sync_tree", lambda *arguments: stop(*arguments, then=sync))
        fork(source, source.with_name("new"), config(CHANGED))
    assert contents(source.parent) == before and not source.with_name("new").exists()
    assert len(fork(source, source.with_name("new"), config(CHANGED))) == 6


def test_the_remains_of_a_killed_fork_are_no_run_and_are_removed(source, capsys):
    """No process has number 0x7FFFFFF0: Linux ends at 2^22."""
    from loop.commands.main import main

    left = source.with_name(f".new.fork-{0x7FFFFFF0}")
    left.mkdir()
    (left / "journal.jsonl").touch()
    assert main(["status", "--runs", str(source.parent)]) == 0  # there is one run, so its name is not needed
    fork(source, source.with_name("new"), config(CHANGED))
    assert not left.exists()


def test_a_damaged_stage_is_not_taken_over(source):
    (source / "setup" / "sft" / "payload.txt").write_text("other")
    with pytest.raises(UserError, match="setup/sft is damaged"):
        fork(source, source.with_name("new"), config(CHANGED))
    assert sorted(path.name for path in source.parent.iterdir()) == ["cache", "old"]


@pytest.mark.parametrize("name", ["a/b", "", "..", ".hidden"])
def test_a_fork_has_the_name_of_a_run(source, capsys, name):
    from loop.commands.main import main

    before = contents(source.parent)
    assert main(["run", "--runs", str(source.parent), "--name", "old", "--fork", name]) == 2
    assert "is not a valid run name" in capsys.readouterr().err and contents(source.parent) == before
