"""Failures of the disk are told apart, and workers that have stopped moving are noticed."""

import errno

import pytest

from configs import load_config
from configs.errors import LoopError
from loop.executors.heartbeat import SignsOfLife
from loop.failures import OutOfMemory, StageFailed, disk_error, disk_errors_explained, stage_error, what_to_lower


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written"),
        (PermissionError(errno.EACCES, "Permission denied", "/"), "cannot be written"),  # a folder above that of the run
        (LoopError("SafetensorError: I/O error: No space left on device (os error 28)"), "the disk is full"),
    ],
)
def test_disk_errors_are_told_apart(tmp_path, error, words):
    explained = disk_error(error, tmp_path)
    assert words in str(explained) and str(tmp_path) in str(explained) and explained.exit_code == 4
    assert disk_error(OSError(errno.ENOENT, "No such file", "x"), tmp_path) is None
    assert disk_error(LoopError("the loss is nan"), tmp_path) is None
    if isinstance(error, OSError):
        with pytest.raises(LoopError, match=words), disk_errors_explained(tmp_path):
            raise error


def test_a_file_elsewhere_that_may_not_be_read_is_not_the_run_directory(tmp_path):
    refused = PermissionError(errno.EACCES, "Permission denied", "/data/labels.jsonl")
    failed = StageFailed(f"PermissionError: {refused}", f"Traceback\nPermissionError: {refused}")
    assert disk_error(refused, tmp_path) is None and disk_error(failed, tmp_path) is None
    with pytest.raises(LoopError, match="^Permission denied: /data/labels.jsonl\n"), disk_errors_explained(tmp_path):
        raise refused
    in_the_run = StageFailed(f"PermissionError: [Errno 13] Permission denied: '{tmp_path / 'round-000'}'", "")
    assert "cannot be written" in str(disk_error(in_the_run, tmp_path))


def test_python_and_libraries_run_out_of_memory_too():
    """Python's own error often says nothing, and numpy's has a class of its own below it."""
    told = {repr(error): stage_error(error, "") for error in (MemoryError(), MemoryError("Unable to allocate 9 TiB"), ValueError("no"))}
    assert [type(error) for error in told.values()] == [OutOfMemory, OutOfMemory, StageFailed]
    assert [str(error) for error in told.values()] == ["MemoryError", "MemoryError: Unable to allocate 9 TiB", "ValueError: no"]
    assert isinstance(stage_error(type("OutOfMemoryError", (RuntimeError,), {})(), ""), OutOfMemory)


def test_the_settings_to_lower_are_those_of_what_trains_the_policy():
    """A PPO batch of 64 is two minibatches. A DPO batch is 32 pairs, and DPO samples nothing."""
    by_ppo, by_dpo = (what_to_lower("policy", load_config(overrides=[f"trainer={name}"])) for name in ("ppo", "dpo"))
    assert by_ppo == "ppo.micro_batch_size (now 32), generation.batch_size (now 128) or runtime.tokens_per_batch (now 16384)"
    assert by_dpo == "dpo.micro_batch_size (now 32) or runtime.tokens_per_batch (now 16384)"


def test_silence_is_noticed_by_contents(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("loop.executors.heartbeat.time.monotonic", lambda: clock[0])
    lives = SignsOfLife([tmp_path / "beat-0", tmp_path / "beat-1"], 10.0)
    clock[0] = 9.0
    (tmp_path / "beat-0").write_text("1")
    assert not lives.are_over()
    clock[0] = 18.9
    assert not lives.are_over()
    (tmp_path / "beat-1").write_text("1")  # one worker stands still, the other moves
    assert not lives.are_over()
    clock[0] = 28.8
    assert not lives.are_over()
    clock[0] = 29.0  # 10.1 s after the last that moved
    assert lives.are_over()


def test_what_to_lower_where_memory_runs_out():
    """Every setting that is named is a run-time setting, so that the run can go on with another value."""
    config = load_config()
    scoring, sampling = "runtime.tokens_per_batch (now 16384)", "generation.batch_size (now 128)"
    assert what_to_lower("sample", config) == sampling
    assert what_to_lower("evaluate", config) == f"{sampling} or {scoring}"
    assert what_to_lower("policy", config) == f"ppo.micro_batch_size (now 32), {sampling} or {scoring}"
    assert what_to_lower("sft", config) == "sft.micro_batch_size (now 64)"
    assert what_to_lower("select", config) == f"select.micro_batch_size (now 16) or {scoring}"
