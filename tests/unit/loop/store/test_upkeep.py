"""What `verify` reports and what `gc` removes."""

import json
import os
import shutil
import subprocess
from contextlib import contextmanager

import pytest

from configs import UserError, load_config
from configs.errors import LoopError
from loop.commands.main import main
from loop.keys import planned_keys
from loop.store import artifacts
from loop.store.journal import Journal
from loop.store.upkeep import collect_garbage, verify
from tests.unit.loop.fake_executor import FakeDriver


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


@pytest.fixture
def run(tmp_path):
    """A finished run of one round."""
    FakeDriver(tmp_path / "x").execute()
    return tmp_path / "x"


def edit(change):
    """An edit of a manifest's values as a person would make it: valid JSON in the same form."""

    def apply(path):
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest, indent=2) + "\n")

    return apply


def a_better_metric(manifest):
    manifest["metrics"]["value"] = 2.0
    del manifest["check"]
    manifest["check"] = artifacts.hash_json(manifest)  # by somebody who knows how the checksum is made


EDITS = {
    "a metric": edit(lambda manifest: manifest["metrics"].update(value=2.0)),
    "a metric, with the right checksum": edit(a_better_metric),
    "the key": edit(lambda manifest: manifest.update(key="0" * 64)),
    "the seconds": edit(lambda manifest: manifest.update(seconds=99.0)),
    "a file left out": edit(lambda manifest: manifest["files"].popitem()),
    "an older schema": edit(lambda manifest: manifest.update(schema=1)),
    "half of it": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "no manifest": lambda path: path.unlink(),
}


@pytest.mark.parametrize("stage", ["setup/data", "setup/base", "round-000/policy", "round-000/evaluate"])
@pytest.mark.parametrize("kind", EDITS)
def test_an_edited_manifest_is_refused_by_run_and_by_verify(run, kind, stage):
    """When the directory is deleted, as the message advises, the same command makes the stage again and the run is whole."""
    whole, digests = verify(run), FakeDriver(run).digests()
    EDITS[kind](run / stage / "manifest.json")
    assert [line.startswith(str(run / stage / "manifest.json")) for line in verify(run)[0]] == [True]
    driver = FakeDriver(run)
    with pytest.raises(UserError, match="manifest.json: (is not what was committed|cannot be read)") as error:
        driver.execute()
    assert error.value.where == str(run / stage) and "delete that directory" in error.value.to_do and not driver.made
    shutil.rmtree(run / stage)
    FakeDriver(run).execute()
    assert verify(run) == whole and FakeDriver(run).digests() == digests


def test_a_manifest_is_checked_where_no_journal_line_vouches_for_it(run):
    """A crash between the rename that commits a stage and its journal line leaves such a run."""
    journal = run / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(line for line in lines if not (b"stage_committed" in line and b'"evaluate"' in line)))
    manifest = run / "round-000" / "evaluate" / "manifest.json"
    before = manifest.read_text()
    assert "no line of the journal names it" in " ".join(verify(run)[0])
    manifest.write_text(before.replace('"value": 1.0', '"value": 2.0'))
    assert verify(run)[0] == [f"{manifest}: is not what was committed"]
    with pytest.raises(UserError, match="evaluate is damaged"):
        FakeDriver(run).execute()
    manifest.write_text(before)
    driver = FakeDriver(run)
    driver.execute()
    assert verify(run)[0] == [] and not driver.made


def a_link_in_place_of_a_file(run):
    file = run / "setup" / "sft" / "payload.txt"
    shutil.copy(file, run / "copy.txt")
    file.unlink()
    file.symlink_to(run / "copy.txt")
    return file, "is a symbolic link"


def a_link_in_place_of_a_stage(run):
    (run / "setup" / "sft").rename(run / "elsewhere")
    (run / "setup" / "sft").symlink_to(run / "elsewhere")
    return run / "setup" / "sft", "is a symbolic link"


def a_link_in_place_of_a_round(run):
    (run / "round-000").rename(run / "elsewhere")
    (run / "round-000").symlink_to(run / "elsewhere")
    return run / "round-000", "is a symbolic link"


def an_empty_directory(run):
    (run / "setup" / "sft" / "deep" / "empty").mkdir(parents=True)
    return run / "setup" / "sft" / "deep" / "empty", "is an empty directory"


def a_file_too_many(run):
    (run / "setup" / "sft" / "notes.txt").touch()
    return run / "setup" / "sft" / "notes.txt", "does not belong here"


def a_pipe(run):
    os.mkfifo(run / "setup" / "sft" / "pipe")
    return run / "setup" / "sft" / "pipe", "is not a plain file"


def a_missing_file(run):
    (run / "setup" / "sft" / "payload.txt").unlink()
    return run / "setup" / "sft" / "payload.txt", "is missing"


def a_missing_stage(run):
    shutil.rmtree(run / "setup" / "sft")
    return run / "setup" / "sft", "is missing"


def a_stage_of_no_run(run):
    shutil.copytree(run / "setup" / "sft", run / "setup" / "sft-copy")
    return run / "setup" / "sft-copy", "no line of the journal names it"


def a_folder_of_somebody(run):
    (run / "round-000" / "mine").mkdir()
    return run / "round-000" / "mine", "does not belong here"


def an_empty_round(run):
    (run / "round-001").mkdir()
    return run / "round-001", "is an empty directory"


@pytest.mark.parametrize(
    "harm",
    [
        a_link_in_place_of_a_file,
        a_link_in_place_of_a_stage,
        a_link_in_place_of_a_round,
        an_empty_directory,
        a_file_too_many,
        a_pipe,
        a_missing_file,
        a_missing_stage,
        a_stage_of_no_run,
        a_folder_of_somebody,
        an_empty_round,
    ],
)
def test_verify_reports_what_is_not_as_it_was_committed(run, harm):
    assert verify(run) == ([], len(planned_keys(load_config(num_rounds=1))))
    path, why = harm(run)
    damage = verify(run)[0]
    assert len(damage) == 1 and damage[0].startswith(f"{path}: ") and why in damage[0], damage


def test_a_stage_that_leaves_something_else_than_files_is_not_committed(tmp_path):
    """What `verify` would report as damage is never committed."""
    for number, leave in enumerate((lambda path: path.mkdir(), lambda path: path.symlink_to(tmp_path))):
        payload = artifacts.begin(tmp_path / "work", "k")
        leave(payload / "odd")
        with pytest.raises(LoopError, match="odd is"):
            artifacts.commit(payload, tmp_path / f"final-{number}", "k", {}, 0.0)
        assert not (tmp_path / f"final-{number}").exists()


@contextmanager
def read_only(folder):
    """A folder that cannot be written. Modes do not stop root, so for root it is a read-only mount."""
    if os.geteuid():
        folder.chmod(0o555)
    elif subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
        pytest.skip("root may write everywhere, and mounting is not allowed here")
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
    """`gc` reports it in one message. `status` and `verify` only read."""
    runs = tmp_path / "runs"
    FakeDriver(runs / "x").execute()
    (runs / "x" / "lock").unlink()  # so that `gc` would have to make it
    with read_only(runs / "x"):
        assert main(["gc", "--runs", str(runs)]) == 4
        said = capsys.readouterr()
        assert "the run directory cannot be written" in said.err and str(runs / "x") in said.err and not said.out
        assert main(["verify", "--runs", str(runs)]) == 0
        assert main(["status", "--runs", str(runs)]) == 0
    assert main(["gc", "--runs", str(runs)]) == 0
