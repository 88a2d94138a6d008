"""`loop promote` from words to exit code, on runs whose stages compute nothing: what it writes, and what it leaves alone."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from configs import load_config
from loop.commands.main import main
from loop.commands.promote import _sources
from loop.failures import StageFailed
from loop.promotion.choosing import Choice
from loop.store.layout import RunFolder
from rewards.comparisons import PromptRecord, write_jsonl
from tests.unit.loop.fake_executor import FakeExecutor

GOLD = {"baseline": 1.0, "round-000/evaluate": 3.0, "round-001/evaluate": 2.0}


class Exporter(FakeExecutor):
    """Writes a file that names the policy. `fails`: what is raised in the middle of that."""

    fails: BaseException | None = None

    def run(self, name, request, on_wait):
        output = Path(request["output"])
        if request["stage"] == "filter":
            write_jsonl(output / "prompts.jsonl", [PromptRecord("p", "a")])
        if request["stage"].startswith("promote"):
            (output / "weights").write_text(request["inputs"]["policy"])
            (output / "weights").chmod(0o600)  # as safetensors does
            (output / "templates").mkdir()  # as tokenizers with several templates do
            (output / "templates" / "tools").write_text("x" * 3 * 2**20)
            if Exporter.fails:
                raise Exporter.fails
            return {"end_tokens": ["</s>"], "has_template": False, "parameters": 1, "rounding": 0.0}
        found = super().run(name, request, on_wait)
        gold = GOLD.get(name) or GOLD.get(request["stage"])
        return found | ({"gold": {"mean": gold, "standard_error": 0.1, "count": 9}} if gold else {})


@pytest.fixture
def loop(tmp_path, monkeypatch, capsys):
    """Run a command in the test's own folder, which has a run of two rounds. Returns (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Exporter, "fails", None)
    for command in ("run", "asking"):
        monkeypatch.setattr(f"loop.commands.{command}.executor_for", lambda config, folder: nullcontext(Exporter()))

    def run(*words):
        code = main(words)
        return code, *capsys.readouterr()

    assert run("run", "--name", "x", "--rounds", "2")[0] == 0
    return run


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_best_round_goes_to_a_folder_of_its_name(loop, tmp_path):
    """Round 0 has the highest true reward. Nothing is left beside the folder, and the run is as it was."""
    before = files(tmp_path / "runs")
    code, out, err = loop("promote")
    folder = tmp_path / "x-round-000"
    assert code == 0 and not err and "Round 0 has the highest true reward" in out and str(folder) in out
    assert (folder / "weights").read_text().endswith("x/round-000/policy")
    assert "Next comes round 1" in (folder / "README.md").read_text()
    origin = json.loads((folder / "manifest.json").read_text())["metrics"]["promoted_from"]
    assert (origin["run"], origin["round"], origin["adapter"]) == ("x", 0, False)
    assert ", as a model, 3.0 MiB: " in out
    assert (folder / "templates").stat().st_mode & 0o111 == 0o111  # a folder stays one that people can look into
    assert (
        len({path.stat().st_mode for path in folder.rglob("*") if path.is_file()}) == 1
    )  # the weights can be read by whom the rest can be
    assert files(tmp_path / "runs") == before and {path.name for path in tmp_path.iterdir()} == {"cache", "runs", "x-round-000"}


def test_a_round_the_sft_policy_and_an_adapter_can_be_asked_for(loop, tmp_path):
    assert loop("promote", "x", "1", "--out", "mine")[0] == 0
    assert (tmp_path / "mine" / "weights").read_text().endswith("round-001/policy")
    assert loop("promote", "x", "sft", "--adapter")[0] == 0
    assert (tmp_path / "x-sft-adapter" / "weights").read_text().endswith("setup/sft")
    assert "library_name: peft" in (tmp_path / "x-sft-adapter" / "README.md").read_text()


def test_only_what_promote_has_made_is_replaced(loop, tmp_path):
    """A folder of the user's, an empty one, a file, a stage of a run, and a promoted folder that was changed are left alone."""
    loop("promote", "x", "0", "--out", "mine")
    assert loop("promote", "x", "1", "--out", "mine")[0] == 0  # it was ours, and unchanged
    assert (tmp_path / "mine" / "weights").read_text().endswith("round-001/policy")
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("keep me")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    loop("run", "--name", "y", "--rounds", "1")
    before = files(tmp_path)
    for out, why in (
        ("mine", "was changed since"),
        ("empty", "has not made it"),
        ("file", "has not made it"),
        ("link", "was changed since"),
        ("runs/y/round-000/policy", "has not made it"),
        ("runs/x/new", "inside the run"),
        ("none/new", "is not a folder"),
        (".", "has not made it"),
    ):
        code, said, err = loop("promote", "x", "0", "--out", out)
        assert code == 2 and why in err and "to do:" in err and not said, out
    assert files(tmp_path) == before and (tmp_path / "link").is_symlink()


def test_an_export_that_does_not_end_leaves_nothing(loop, tmp_path, monkeypatch):
    assert loop("promote", "x", "0", "--out", "mine")[0] == 0
    before = files(tmp_path)
    monkeypatch.setattr(Exporter, "fails", KeyboardInterrupt())
    for out in ("mine", "new"):
        assert loop("promote", "x", "1", "--out", out)[0] == 130
    monkeypatch.setattr(
        Exporter, "fails", StageFailed("TypeError: no, password=hunter2", "first\nlines\n" + 'File "mine.py", line 3\n' * 5)
    )
    code, _, err = loop("promote", "x", "1", "--out", "new")
    assert code == 4 and "error: exporting failed: TypeError: no, password=***" in err  # there is no log, so this says where
    assert 'File "mine.py", line 3' in err and "first" not in err
    assert files(tmp_path) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("y", "there is no run 'y'"),
        ("x 2", "round 2 has no policy yet"),
        ("x one", "must be the number of a round or `sft`, not 'one'"),
        ("x -1", "must be the number of a round or `sft`, not '-1'"),
    ],
)
def test_wrong_words_are_refused_with_one_message(loop, words, message):
    code, out, err = loop("promote", *words.split())
    assert code == 2 and not out and message in err and err.count("error:") == 1


def test_a_damaged_stage_is_not_exported(loop, tmp_path):
    (tmp_path / "runs" / "x" / "round-000" / "policy" / "payload.txt").write_text("?")
    code, _, err = loop("promote", "x", "0")
    assert code == 2 and "policy is damaged" in err and not (tmp_path / "x-round-000").exists()
    (tmp_path / "runs" / "x" / "config.yaml").unlink()
    assert "has no config.yaml" in loop("promote", "x", "1")[2]


@pytest.mark.parametrize(
    ("trainer", "number", "expected"), [("ppo", 1, ["pairs", "votes"]), ("ppo", None, ["pairs"]), ("dpo", 1, ["pairs"])]
)
def test_public_votes_are_among_the_sources_of_what_ppo_has_trained(tmp_path, trainer, number, expected):
    """The reward models of PPO start from them. Nothing else does."""
    folder = RunFolder(tmp_path / "x")
    for stage, name in (("data", "pairs"), ("pmp", "votes")):
        folder.stage(stage, None).mkdir(parents=True)
        (folder.stage(stage, None) / "sources.json").write_text(json.dumps([{"name": name, "licence": "cc-by-sa-4.0"}]))
    config = load_config(overrides=["pmp.sources=[{path: votes.jsonl}]", f"trainer={trainer}"])
    assert [source["name"] for source in _sources(folder, config, Choice(number, []))] == expected
