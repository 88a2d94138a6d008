"""Every test has its own cache for the tiny base."""

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
