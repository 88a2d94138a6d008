"""A run continues only with the base model that it was started with."""

import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from configs import UserError, load_config
from configs.views import visible
from loop.executors.worker import Worker
from loop.forks import fork
from loop.round import BASE, FILTER
from loop.store import base_files, known_hashes
from loop.store.artifacts import hash_file
from loop.store.base_files import check_unchanged, find_changes, hash_files
from loop.store.known_hashes import KnownHashes
from loop.store.upkeep import verify
from policies.conversion import make_available
from policies.loading import resolved_commit
from policies.named_bases import SMOLLM2
from tests.conftest import make_causal_lm
from tests.forked import HUB, Forked
from tests.unit.loop.fake_executor import FakeDriver


@pytest.fixture
def model(tmp_path):
    """A folder that looks like a model; nothing loads it."""
    folder = tmp_path / "model"
    (folder / "additional_chat_templates").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md", "additional_chat_templates/tools.jinja"):
        (folder / name).write_text(f"what is in {name}")
    return folder


@pytest.fixture
def settings(model):
    """A run on that model."""
    return f"base.model={model}", "data.source=pairs.jsonl", "data.labeler_fraction=0.5", "labeler.kind=reward-model"


def swap(model):
    (model / "model.safetensors").write_text("other weights")


def test_swapped_weights_are_named_and_no_stage_is_made(tmp_path, model, settings):
    """The weights change between two rounds. When they are restored, the run ends like an undisturbed one."""
    folder, before = tmp_path / "x", (model / "model.safetensors").read_bytes()
    FakeDriver(folder, *settings).execute()
    shutil.copytree(folder, tmp_path / "undisturbed")
    FakeDriver(tmp_path / "undisturbed", *settings, num_rounds=2).execute()
    swap(model)
    driver = FakeDriver(folder, *settings, num_rounds=2)
    with pytest.raises(UserError, match="model.safetensors: was changed") as error:
        driver.execute()
    assert "restore the files" in error.value.to_do and "--fork NEW" in error.value.to_do and not driver.made
    swapped = f"{model / 'model.safetensors'}: was changed (a file of the base model)"
    assert verify(folder)[0] == [swapped]
    other = folder / "setup" / "baseline" / "notes.txt"
    other.touch()
    assert verify(folder)[0] == [swapped, f"{other}: does not belong here"]
    other.unlink()
    (model / "model.safetensors").write_bytes(before)
    driver = FakeDriver(folder, *settings, num_rounds=2)
    driver.execute()
    assert verify(folder)[0] == [] and driver.digests() == FakeDriver(tmp_path / "undisturbed", *settings).digests()
    assert all(name.startswith("round-001/") for name in driver.made)


def test_a_finished_run_with_other_weights_is_refused(tmp_path, model, settings):
    FakeDriver(tmp_path / "x", *settings).execute()
    swap(model)
    with pytest.raises(UserError, match="not the one that the run started with"):
        FakeDriver(tmp_path / "x", *settings).execute()


def test_the_base_stage_made_again_does_not_take_other_weights(tmp_path, model, settings):
    """Without the directory there is no record, but the journal has its digest. Otherwise all stages would silently be made again."""
    folder = tmp_path / "x"
    FakeDriver(folder, *settings).execute()
    swap(model)
    shutil.rmtree(folder / "setup" / "base")
    driver = FakeDriver(folder, *settings, num_rounds=2)
    with pytest.raises(UserError, match="not the one that the run started with"):
        driver.execute()
    assert driver.made == ["setup/base"] and not (folder / "setup" / "base").exists()


def test_a_damaged_record_is_named_without_a_traceback(tmp_path, model, settings):
    folder = tmp_path / "x"
    FakeDriver(folder, *settings).execute()
    record = folder / "setup" / "base" / "base.json"
    record.write_text(record.read_text()[:20])
    assert verify(folder)[0] == [f"{record}: was changed"]
    with pytest.raises(UserError, match="base.json: was changed"):
        FakeDriver(folder, *settings).execute()
    with pytest.raises(UserError, match="the record of the base model cannot be read"):
        fork(folder, tmp_path / "new", load_config(overrides=settings, name="new", num_rounds=1))


def test_a_finished_run_does_not_hash_the_weights_again(tmp_path, model, settings, monkeypatch):
    monkeypatch.setattr(known_hashes, "SETTLED_SECONDS", -1000.0)  # the files are a moment old
    FakeDriver(tmp_path / "x", *settings).execute()
    monkeypatch.setattr(known_hashes, "hash_file", lambda path: pytest.fail(f"{path} is hashed again"))
    driver = FakeDriver(tmp_path / "x", *settings)
    driver.execute()
    assert "Nothing to do" in driver.terminal.lines[-1]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda model: swap(model), "model.safetensors: was changed"),
        (lambda model: (model / "tokenizer.json").unlink(), "tokenizer.json: is missing"),
        (lambda model: (model / "pytorch_model.bin").touch(), "pytorch_model.bin: is new"),
        (lambda model: (model / "source.spm").touch(), "source.spm: is new"),  # Marian's tokenizer
        (lambda model: (model / "additional_chat_templates" / "tools.jinja").write_text(""), "tools.jinja: was changed"),
        (lambda model: shutil.rmtree(model), "the base model does not exist"),
        (lambda model: (model / "README.md").write_text("other words"), None),
    ],
)
def test_what_counts_as_a_change(tmp_path, model, settings, change, why):
    FakeDriver(tmp_path / "x", *settings).execute()
    base = tmp_path / "x" / "setup" / "base"
    check_unchanged(base)
    change(model)
    changes = find_changes(base)
    assert len(changes) == (why is not None) and (why or "") in " ".join(changes)


def test_a_fork_with_other_weights_takes_over_the_data_only(tmp_path, model, settings):
    FakeDriver(tmp_path / "x", *settings).execute()
    config = load_config(overrides=settings, name="same", num_rounds=1)
    assert len(fork(tmp_path / "x", tmp_path / "same", config)) == len(FakeDriver(tmp_path / "x").digests())
    swap(model)
    config = load_config(overrides=settings, name="new", num_rounds=1)
    assert fork(tmp_path / "x", tmp_path / "new", config) == ["setup/data"]
    driver = FakeDriver(tmp_path / "new", *settings)
    driver.execute()
    assert driver.made[0] == "setup/base" and verify(tmp_path / "new")[0] == []


def test_weights_are_hashed_once(model, monkeypatch):
    """Hashes are remembered by path, size, times and inode. `thorough`, which `verify` uses, hashes again."""
    monkeypatch.setattr(known_hashes, "SETTLED_SECONDS", -1000.0)  # the files are a moment old
    hashed = []
    really = known_hashes.hash_file
    monkeypatch.setattr(known_hashes, "hash_file", lambda path: hashed.append(path.name) or really(path))
    first = hash_files(model)
    assert sorted(hashed) == ["config.json", "model.safetensors", "tokenizer.json", "tools.jinja"]
    hashed.clear()
    assert hash_files(model) == first and not hashed
    assert hash_files(model, thorough=True) == first and len(hashed) == 4
    hashed.clear()
    before = (model / "model.safetensors").stat()
    (model / "model.safetensors").write_text("what is in model.SAFETENSORS")  # as many bytes
    os.utime(model / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns))  # and the old time, as after `cp -p`
    assert hash_files(model)["model.safetensors"] != first["model.safetensors"] and hashed == ["model.safetensors"]


def test_the_hash_of_a_new_file_is_not_remembered(model, monkeypatch):
    """A second write within one step of the file system's clock could leave size, times and inode unchanged."""
    hash_files(model)
    assert KnownHashes()._known == {}
    later = time.time() + known_hashes.SETTLED_SECONDS + 0.1
    monkeypatch.setattr(known_hashes, "time", SimpleNamespace(time=lambda: later))
    hash_files(model)
    assert len(KnownHashes()._known) == 4


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', '{"a": [1, 2]}'])
def test_a_damaged_cache_of_hashes_only_costs_time(model, cache, content):
    expected = hash_files(model)
    cache.mkdir(exist_ok=True)
    (cache / "hashes.json").write_text(content)
    assert hash_files(model) == expected


def test_an_embedded_base_has_no_record(tmp_path):
    FakeDriver(tmp_path / "x").execute()
    assert base_files.read_record(tmp_path / "x" / "setup" / "base") == {} and find_changes(tmp_path / "x" / "setup" / "base") == []


def load_at_commits(base: Path, main: Path, commits: list[str]) -> None:
    """Move the hub's main branch to each commit in turn; print the commit that the worker finds and a sum of the weights that it loads."""
    words = ["base.model=somebody/tiny", "data.source=x.jsonl", "data.labeler_fraction=0.5", "labeler.kind=reward-model"]
    config = visible(load_config(overrides=words), FILTER.visible)
    for commit in commits:
        main.write_text(commit)
        backbone = Worker(0, 1)._backbone(config, base)
        print(json.dumps([resolved_commit(config.base.model, config.base.revision), sum_of_weights(backbone.causal_lm)]))


def sum_of_weights(model) -> float:
    return next(iter(model.parameters())).double().sum().item()


def test_a_hub_base_stays_at_its_commit(tmp_path):
    """A hub's cache as transformers reads it, offline. The main branch changes; the run keeps the commit that it was started with."""
    hub = HUB / "models--somebody--tiny"
    weights = {}
    for seed, commit in enumerate(("a" * 40, "b" * 40)):
        model, tokenizer = make_causal_lm(seed)
        model.save_pretrained(hub / "snapshots" / commit)
        tokenizer.save_pretrained(hub / "snapshots" / commit)
        weights[commit] = sum_of_weights(model)
    first, second = weights
    base, main = tmp_path / "base", hub / "refs" / "main"
    for folder in (base, main.parent):
        folder.mkdir()
    (base / "base.json").write_text(json.dumps({"model": "somebody/tiny", "commit": first}))
    printed, said = tmp_path / "out", tmp_path / "err"
    process = Forked(load_at_commits, base, main, [first, second], folder=tmp_path, environment=os.environ, out=printed, err=said)
    assert process.wait(120) == 0, said.read_text()
    found = [json.loads(line) for line in printed.read_text().splitlines()]
    assert found == [[first, pytest.approx(weights[first])], [second, pytest.approx(weights[first])]]
    assert weights[first] != pytest.approx(weights[second])


def test_the_base_stage_records_what_is_loaded(tmp_path):
    """The stage itself, on a worker without Ray. The driver compares the files of the folder with this record."""
    folder = tmp_path / "model"
    for part in make_causal_lm(0):
        part.save_pretrained(folder)
    (folder / "README.md").write_text("not read by from_pretrained")
    words = (f"base.model={folder}", "data.source=x.jsonl", "data.labeler_fraction=0.5", "labeler.kind=reward-model")
    config = load_config(overrides=words)
    (tmp_path / "work").mkdir()
    (tmp_path / "out").mkdir()
    request = {"stage": "base", "round": None, "config": config.model_dump(mode="json"), "reads": BASE.visible, "functions": {}}
    request["inputs"] = {}
    Worker(0, 1).run_stage(request | {"work": str(tmp_path / "work"), "output": str(tmp_path / "out")})
    record = base_files.read_record(tmp_path / "out")
    assert record["files"] == {path.name: hash_file(path) for path in folder.iterdir() if path.name != "README.md"}
    assert "model.safetensors" in record["files"] and find_changes(tmp_path / "out", thorough=True) == []
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert find_changes(tmp_path / "out") == [f"{folder / 'config.json'}: was changed"]


def recorded_model(tmp_path):
    """A model's folder, the directory of a base stage that records it, and the settings of a run on it."""
    folder, base = tmp_path / "model", tmp_path / "base"
    for part in make_causal_lm(0):
        part.save_pretrained(folder)
    base.mkdir()
    (base / "base.json").write_text(json.dumps({"model": str(folder), "files": hash_files(folder)}))
    return folder, base, (f"base.model={folder}", "data.source=x.jsonl", "data.labeler_fraction=0.5", "labeler.kind=reward-model")


def test_a_worker_does_not_load_other_weights(tmp_path):
    """Files that are replaced after the driver has checked them are noticed too, even while they are read."""
    from policies.backbone import Backbone

    folder, base, words = recorded_model(tmp_path)
    config = load_config(overrides=words)
    assert Worker(0, 1)._backbone(config, base).hidden_size == 32

    class Swapping(Backbone):
        @classmethod
        def load(cls, *arguments):
            loaded = super().load(*arguments)
            make_causal_lm(1)[0].save_pretrained(folder)
            return loaded

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="model.safetensors: was changed"):
        patch.setattr("policies.backbone.Backbone", Swapping)
        Worker(0, 1)._backbone(config, base)
    with pytest.raises(UserError, match="model.safetensors: was changed"):
        Worker(0, 1)._backbone(config, base)


def test_runs_with_one_base_and_other_settings_share_no_model(tmp_path):
    """The runs of an experiment share a worker. Its model had the adapters and the number format of the first run in all of them."""
    _, base, words = recorded_model(tmp_path)
    worker, found = Worker(0, 1), []
    for changed in ("lora.rank=4", "lora.rank=8", "lora.rank=8", "base.dtype=bfloat16"):
        backbone = worker._backbone(load_config(overrides=[*words, changed]), base)
        backbone.add_adapter("policy", seed=0)
        rank = next(weight for name, weight in backbone.adapter_state("policy").items() if "lora_A" in name).shape[0]
        found.append((backbone, rank, next(backbone.causal_lm.parameters()).dtype))
    assert [row[1:] for row in found] == [(4, torch.float32), (8, torch.float32), (8, torch.float32), (16, torch.bfloat16)]
    assert found[1][0] is found[2][0]


def test_a_named_base_is_recorded_like_a_folder_and_may_be_made_again(tmp_path, monkeypatch):
    """Its folder is in the cache. A changed one is named, and the way out is to delete it: a worker then makes it again."""
    parts, base = make_causal_lm(0), tmp_path / "base"

    def convert(named, output):
        for part in parts:
            part.save_pretrained(output)

    monkeypatch.setattr("policies.conversion.convert", convert)
    make_available("smollm2-135m")
    base.mkdir()
    (base / "base.json").write_text(json.dumps({"model": "smollm2-135m", "files": hash_files(SMOLLM2.folder)}))
    words = ("base.model=smollm2-135m", "data.source=x.jsonl", "data.labeler_fraction=0.5", "labeler.kind=reward-model")
    config = load_config(overrides=words)
    assert base_files.fingerprint_now(config) == base_files.fingerprint(base_files.read_record(base)["files"])
    make_causal_lm(1)[0].save_pretrained(SMOLLM2.folder)
    with pytest.raises(UserError, match="model.safetensors: was changed") as error:
        check_unchanged(base)
    assert error.value.to_do == f"delete {SMOLLM2.folder}, and the same command makes it again"
    shutil.rmtree(SMOLLM2.folder)
    check_unchanged(base)
    backbone = Worker(0, 1)._backbone(config, base)
    assert backbone.name == "smollm2-135m" and backbone.location == str(SMOLLM2.folder)
    assert find_changes(base, thorough=True) == []
