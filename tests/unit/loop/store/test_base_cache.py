"""The cached base is whole, or it is made again."""

import os
import random
import shutil

import pytest

from configs.errors import LoopError
from loop.store import artifacts
from loop.store.base_cache import BaseCache
from loop.store.upkeep import verify
from tests.unit.loop.fake_executor import FakeDriver


def test_partial_copies_of_dead_processes_are_removed(tmp_path):
    """No process has number 0x7FFFFFF0: Linux ends at 2^22. Our parent is alive, so its copy would be another run's work."""
    payload = artifacts.begin(tmp_path / "work", "abc")
    (payload / "model").write_text("weights")
    artifacts.commit(payload, tmp_path / "base", "abc", {"loss": 1.0}, 1.0)
    cache = BaseCache("abc")
    dead, alive = (cache.folder.with_name(f"{cache.folder.name}.{pid}") for pid in (0x7FFFFFF0, os.getppid()))
    for folder in (dead, alive):
        folder.mkdir(parents=True)
    cache.keep(tmp_path / "base")
    assert (cache.folder / "model").read_text() == "weights" and artifacts.find_damage(cache.folder) == []
    assert alive.exists() and not dead.exists()
    assert sorted(path.name for path in cache.folder.parent.iterdir()) == sorted([cache.folder.name, alive.name])


def test_a_second_run_uses_the_cached_base(tmp_path):
    FakeDriver(tmp_path / "a").execute()
    driver = FakeDriver(tmp_path / "b")
    driver.execute()
    assert "setup/base" not in driver.made and driver.digests() == FakeDriver(tmp_path / "a").digests()


def test_no_run_uses_a_base_with_a_flipped_bit(tmp_path, cache):
    """Twenty bits of the cached base, its manifest included: one line names each, and the base is made and cached again."""
    FakeDriver(tmp_path / "first").execute()
    digests, rng = FakeDriver(tmp_path / "first").digests(), random.Random(0)
    kept = next(cache.glob("base-*"))
    for flip in range(20):
        file = kept / ("payload.txt" if flip % 2 else "manifest.json")
        content = file.read_bytes()
        at = rng.randrange(len(content))
        file.write_bytes(content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :])
        driver = FakeDriver(tmp_path / f"run-{flip}")
        driver.execute()
        assert "setup/base" in driver.made and driver.digests() == digests
        assert [line for line in driver.terminal.lines if "damaged" in line and str(file) in line], (driver.terminal.lines, at)
        assert artifacts.find_damage(kept) == [] and verify(driver.folder)[0] == []


def test_a_full_disk_is_not_mistaken_for_a_damaged_base(tmp_path, cache, monkeypatch):
    FakeDriver(tmp_path / "a").execute()

    def full(*_, **__):
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device")])

    monkeypatch.setattr("loop.store.base_cache.shutil.copytree", full)
    with pytest.raises(LoopError, match="the disk is full"):
        FakeDriver(tmp_path / "b").execute()
    assert artifacts.find_damage(next(cache.glob("base-*"))) == []
