"""Journal, artifacts and lock: a crash leaves either nothing or everything."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs import UserError, load_config
from loop.commands.status import as_json
from loop.keys import stage_key
from loop.round import EVALUATE, POLICY, SFT
from loop.store import artifacts
from loop.store.journal import Journal, _with_check, fold, read_events
from loop.store.lock import is_locked, one_writer


def test_state_is_a_fold_over_events(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("run_started", num_rounds=2)
    journal.append("stage_started", stage="sft")
    assert journal.state().setup["sft"].state == "running"
    journal.append("stage_committed", stage="sft", digest="d", seconds=1.5, metrics={"loss": 1.0})
    journal.append("stage_started", round=0, stage="policy")
    journal.append("interrupted")
    state = journal.state()
    assert (state.state, state.setup["sft"].state, state.rounds[0]["policy"].state) == ("interrupted", "done", "interrupted")
    found = as_json("x", state)
    assert found["setup"]["sft"] == {"state": "done", "restarts": 0, "seconds": 1.5, "digest": "d", "metrics": {"loss": 1.0}}
    assert [r["stages"]["reward"]["state"] for r in found["rounds"]] == ["pending", "pending"]


def test_a_torn_last_line_is_dropped_and_a_torn_inner_line_is_named(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append("run_started", num_rounds=1)
    with path.open("ab") as file:
        file.write(b'{"event": "run_do')
    assert fold(read_events(path)).state == "running"
    journal.append("run_done")
    assert fold(read_events(path)).state == "done" and len(read_events(path)) == 2
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0][:10], *lines[1:]]))
    with pytest.raises(UserError, match="line 1 of the journal"):
        read_events(path)


def test_every_line_of_a_journal_may_be_deleted(tmp_path):
    """The message about a damaged line advises to delete it, so the journal must be readable without any one line."""
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append("run_started", num_rounds=1)
    for round_number, stage in ((None, "sft"), (0, "policy")):
        journal.append("stage_started", round=round_number, stage=stage)
        journal.append("worker_lost", round=round_number, stage=stage, message="a worker died")
        journal.append("stage_committed", round=round_number, stage=stage, digest="d", manifest="m")
    journal.append("run_done")
    lines = path.read_bytes().splitlines(keepends=True)
    for left_out in range(len(lines)):
        path.write_bytes(b"".join(lines[:left_out] + lines[left_out + 1 :]))
        state = fold(read_events(path))
        assert as_json("x", state)["setup"]["sft"]["restarts"] == (0 if left_out == 2 else 1)


def test_a_line_of_another_version_is_named(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text(_with_check('{"event":"stage_skipped"}') + "\n")
    with pytest.raises(UserError, match="line 1 of the journal was written by another version"):
        read_events(path)


def test_an_artifact_is_found_by_its_key_only_when_complete(tmp_path):
    work, final = artifacts.begin(tmp_path / "work" / "s", "key"), tmp_path / "round-000" / "s"
    (work / "a.txt").write_text("payload")
    assert artifacts.find_committed(final, "key") is None
    made = artifacts.commit(work, final, "key", {"x": 1}, 2.0)
    assert not work.exists()
    assert artifacts.find_committed(final, "key") == made
    assert artifacts.find_committed(final, "other") is None
    (final / "manifest.json").write_text("{")
    assert artifacts.find_committed(final, "key") is None


def test_the_digest_is_of_names_and_bytes(tmp_path):
    def digest(name, text):
        work = artifacts.begin(tmp_path / "w", "k")
        (work / name).write_text(text)
        return artifacts.commit(work, tmp_path / "f", "k", {}, 0.0).digest

    assert digest("a", "x") == digest("a", "x")
    assert len({digest("a", "x"), digest("b", "x"), digest("a", "y")}) == 3
    manifest = json.loads((tmp_path / "f" / "manifest.json").read_text())
    assert list(manifest["files"]) == ["a"]


def test_keys_change_with_what_a_stage_reads_and_nothing_else():
    config, other = load_config(), load_config(overrides=["ppo.kl_coefficient=0.3"])
    workers = load_config(overrides=["runtime.workers=2"])
    assert stage_key(config, POLICY, 0, {}) != stage_key(other, POLICY, 0, {})
    assert stage_key(config, SFT, None, {}) == stage_key(other, SFT, None, {})
    assert stage_key(config, POLICY, 0, {}) == stage_key(workers, POLICY, 0, {})
    assert stage_key(config, EVALUATE, 0, {}) != stage_key(config, EVALUATE, 1, {})


def test_a_run_has_one_writer(tmp_path):
    assert not is_locked(tmp_path)
    with one_writer(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(UserError, match="another process"), one_writer(tmp_path):
            pass
    assert not is_locked(tmp_path)


def test_asking_whether_a_run_is_locked_refuses_nobody(tmp_path):
    """Two processes ask in a loop, as `status` does, while a run starts 100 times."""
    code = "import sys, pathlib; from loop.store.lock import is_locked\nwhile True: is_locked(pathlib.Path(sys.argv[1]))"
    (tmp_path / "lock").touch()
    probes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[4]) for _ in range(2)]
    try:
        for _ in range(100):
            time.sleep(0.005)
            with one_writer(tmp_path):
                pass
        assert all(probe.poll() is None for probe in probes)  # they have been asking all the time
    finally:
        for probe in probes:
            probe.kill()
            probe.wait()


def test_a_path_on_this_machine_is_not_part_of_the_digest_but_verified_like_every_byte(tmp_path):
    """Two adapters that differ in the path of their base, and a third that differs in its rank."""
    made = {}
    for name, content in (
        ("here", {"base_model_name_or_path": "/here/setup/base", "r": 4}),
        ("there", {"base_model_name_or_path": "/there/setup/base", "r": 4}),
        ("other", {"base_model_name_or_path": "/here/setup/base", "r": 5}),
    ):
        payload = artifacts.begin(tmp_path / "work", "k")
        (payload / "value").mkdir()
        for folder in (payload, payload / "value"):
            (folder / "adapter_config.json").write_text(json.dumps(content))
        made[name] = artifacts.commit(payload, tmp_path / name, "k", {}, 0.0)
        assert artifacts.find_damage(tmp_path / name) == []
    assert made["here"].digest == made["there"].digest != made["other"].digest
    config = tmp_path / "here" / "value" / "adapter_config.json"
    config.write_text(config.read_text().replace("/here", "/hero"))
    assert artifacts.find_damage(tmp_path / "here") == [f"{config}: was changed"]


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
