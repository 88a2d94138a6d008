"""Bad input: exit 2, one message with what, where and what to do, no traceback, and nothing written that hinders."""

import json

import pytest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "0"], "must be a whole number of at least 1, not '0'"),
        (["ppo.num_update=3"], "did you mean 'ppo.num_updates'"),
        (["--config", "none.yaml"], "does not exist"),
        (["--name", "a/b"], "not a run name"),
        (["runtime.workers=3"], "divisible"),
        (["data=x.jsonl"], "the data file does not exist: x.jsonl"),
    ],
)
def test_wrong_words(workspace, words, message):
    out, err = workspace.loop("run", *words, exit_code=2)
    assert message in err and "where:" in err and "to do:" in err and not out


def test_status_without_a_run(workspace, tmp_path):
    _, err = workspace.loop("status", "--runs", str(tmp_path), exit_code=2)
    assert "there is no run yet" in err
    _, err = workspace.loop("status", "nobody", "--runs", str(tmp_path), exit_code=2)
    assert "no run 'nobody'" in err


def test_the_driver_never_imports_torch_nor_ray(workspace):
    import subprocess
    import sys

    code = "import sys, loop.cli, loop.driver, loop.fleet; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'ray')))"
    assert subprocess.run([sys.executable, "-c", code], env=workspace.environment, cwd=workspace.folder).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the data file does not exist"),
        ("", "the data set is empty"),
        ('{"question": "a", "answer": "b"}\n', "lacks the columns chosen, rejected"),
        ('{"prompt": "q", "chosen": "a", "rejected": ""}\n', "rejected is empty"),
    ],
)
def test_wrong_data(workspace, tmp_path, content, message):
    path = tmp_path / "pairs.jsonl"
    if content is not None:
        path.write_text(content)
    words = (f"data={path}", "labeler.kind=preferences-file", "labeler.path=x", "data.bad_rows=refuse")
    _, err = workspace.loop("run", "--name", "wrong", "--runs", str(tmp_path), *words, exit_code=2)
    assert message in err and "to do:" in err


@pytest.mark.slow
def test_a_base_that_is_no_language_model(workspace, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"]}))
    _, err = workspace.loop("run", "--name", "bert", "--runs", str(tmp_path), f"base={tmp_path}", exit_code=2)
    assert "not a causal language model (BertForMaskedLM)" in err
