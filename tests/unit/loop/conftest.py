"""The cache of the tiny base is a folder of the test's own."""

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
