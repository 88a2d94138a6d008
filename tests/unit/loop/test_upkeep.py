"""What `verify` names and what `gc` removes."""

import os
import subprocess
from contextlib import contextmanager

import pytest

from loop.cli import main
from loop.journal import Journal
from loop.upkeep import collect_garbage
from tests.unit.loop.fake_fleet import FakeDriver


def test_garbage_is_what_no_start_would_use(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("run_started", num_rounds=1)
    journal.append("stage_committed", stage="sft", digest="d")
    journal.append("stage_started", round=0, stage="policy")
    for name in ("setup-sft/checkpoints/a", "round-000-policy/payload-1/b", "round-000-policy/checkpoints/c"):
        (tmp_path / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "work" / name).write_bytes(bytes(1000))
    assert collect_garbage(tmp_path) == 2000
    assert [path.name for path in (tmp_path / "work").rglob("*") if path.is_file()] == ["c"]


@contextmanager
def read_only(folder):
    """A folder that cannot be written: by its mode, or for root, whom modes do not stop, by a read-only mount."""
    if os.geteuid():
        folder.chmod(0o555)
    elif subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here, and root may write everywhere else")
    else:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
    try:
        yield
    finally:
        if os.geteuid():
            folder.chmod(0o755)
        else:
            subprocess.run(["umount", folder], check=True)


def test_a_run_that_cannot_be_written(tmp_path, capsys):
    """`gc` says so in one message; `status` and `verify` write nothing and need no more than reading."""
    runs = tmp_path / "runs"
    FakeDriver(runs / "x").execute()
    (runs / "x" / "lock").unlink()  # so that it would have to be made
    with read_only(runs / "x"):
        assert main(["gc", "--runs", str(runs)]) == 4
        said = capsys.readouterr()
        assert "the run directory cannot be written" in said.err and str(runs / "x") in said.err and not said.out
        assert main(["verify", "--runs", str(runs)]) == 0
        assert main(["status", "--runs", str(runs)]) == 0
    assert main(["gc", "--runs", str(runs)]) == 0
