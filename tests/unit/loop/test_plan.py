"""Which stages two configs share; keys that are pinned; forks; what the disk can do."""

import errno
import json

import pytest

from configs import UserError, load_config
from configs.errors import LoopError
from configs.loading import dump_config
from loop.executors.heartbeat import SignsOfLife
from loop.failures import disk_error, disk_errors_explained
from loop.keys import plan, shared_stages
from loop.store import artifacts

PINNED = {
    "setup/data": "95e86ab8",
    "setup/base": "a8426e16",
    "setup/filter": "91e5027d",
    "setup/sft": "998443d5",
    "setup/baseline": "c9f25208",
    "round-000/reward": "bc2215ef",
    "round-000/policy": "46831b44",
    "round-000/sample": "6716c1b8",
    "round-000/label": "03061385",
    "round-000/retrain": "c8c70013",
    "round-000/select": "7633f17c",
    "round-000/evaluate": "6e9848fc",
}


def test_the_keys_of_the_default_are_pinned():
    """A changed key makes every committed stage be made again: change these numbers only if that is meant, and say so in the CHANGELOG."""
    assert {name: key[:8] for name, key in plan(load_config(num_rounds=1)).items()} == PINNED


def test_a_later_setting_shares_the_earlier_stages(tmp_path):
    (tmp_path / "config.yaml").write_text(dump_config(load_config()))
    alike, touched = shared_stages(tmp_path, load_config(overrides=["ppo.num_updates=9"]))
    assert alike == ["setup/data", "setup/base", "setup/filter", "setup/sft", "setup/baseline", "round-000/reward"]
    assert touched[0] == "round-000/policy" and touched[-1] == "round-001/evaluate"
    alike, touched = shared_stages(tmp_path, load_config(overrides=["runtime.workers=2"]))
    assert not touched
    alike, touched = shared_stages(tmp_path, load_config(overrides=["evaluate.num_prompts=9"]))
    assert touched == ["setup/baseline", "round-000/evaluate", "round-001/evaluate"]


def test_a_newer_manifest_is_refused(tmp_path):
    payload = artifacts.begin(tmp_path / "work", "k")
    artifacts.commit(payload, tmp_path / "s", "k", {}, 0.0)
    manifest = tmp_path / "s" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema": artifacts.SCHEMA_VERSION + 1}))
    with pytest.raises(UserError, match="a newer version of loop"):
        artifacts.find_committed(tmp_path / "s", "k")


def test_work_is_kept_for_the_same_recipe_only(tmp_path):
    payload = artifacts.begin(tmp_path / "w", "k")
    (payload / "half").touch()
    (tmp_path / "w" / "checkpoints").mkdir()
    again = artifacts.begin(tmp_path / "w", "k")
    assert again != payload and not payload.exists() and (tmp_path / "w" / "checkpoints").exists()
    artifacts.begin(tmp_path / "w", "other")
    assert not (tmp_path / "w" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "x"), "cannot be written"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "cannot be written"),
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
