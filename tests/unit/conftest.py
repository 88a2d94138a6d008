"""Unit tests do not wait for the disk."""

import pytest


@pytest.fixture(autouse=True)
def disk_is_fast(monkeypatch):
    """No test can see whether a file has reached the disk, and waiting for it takes minutes. Integration tests call the real fsync."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
