"""`loop choose` from words to exit code, on runs whose stages compute nothing."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from loop.commands.main import main
from rewards.comparisons import PromptRecord, write_jsonl
from tests.unit.loop.fake_executor import FakeExecutor


class Chooser(FakeExecutor):
    """Fills what `choose` reads: prompts that are messages, and for each prompt a choice that quotes it."""

    def run(self, name, request, on_wait):
        output = Path(request["output"])
        if request["stage"] == "filter":
            write_jsonl(output / "prompts.jsonl", [PromptRecord("p", [{"role": "user", "content": "a"}])])
        if request["stage"] == "choose":
            asked = [json.loads(line) for line in (Path(request["inputs"]["prompts"]) / "prompts.jsonl").read_text().splitlines()]
            num, policy = request["config"]["sample"]["num_completions"], request["inputs"]["policy"]
            write_jsonl(
                output / "chosen.jsonl",
                [{"prompt_id": row["prompt_id"], "prompt": row["prompt"], "policy": policy, "candidates": [0] * num} for row in asked],
            )
        return super().run(name, request, on_wait)


@pytest.fixture
def loop(tmp_path, monkeypatch, capsys):
    """Run a command in the test's own folder, which has a run of two rounds. Returns (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    for command in ("run", "asking"):
        monkeypatch.setattr(f"loop.commands.{command}.executor_for", lambda config, folder: nullcontext(Chooser()))
    (tmp_path / "prompts.txt").write_text("one\ntwo\none\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "bad.jsonl").write_text('{"question": "one"}\n')
    (tmp_path / "folder").mkdir()

    def run(*words):
        code = main(words)
        return code, *capsys.readouterr()

    assert run("run", "--name", "x", "--rounds", "2")[0] == 0
    return run


def test_each_prompt_has_a_row_in_the_order_of_the_file(loop):
    """A line of text becomes a message, as the run's own prompts are. The newest round answers."""
    code, out, err = loop("choose", "prompts.txt", "--name", "x")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and not err and [row["prompt"] for row in rows] == [[{"role": "user", "content": t}] for t in ("one", "two", "one")]
    assert all(row["policy"].endswith("x/round-001/policy") and "candidates" not in row for row in rows)
    row = json.loads(loop("choose", "prompts.txt", "--round", "0", "--n", "3", "--all")[1].splitlines()[0])
    assert row["policy"].endswith("x/round-000/policy") and len(row["candidates"]) == 3


def test_rows_go_to_a_file_if_one_is_named(loop, tmp_path):
    printed = loop("choose", "prompts.txt")[1]
    code, out, _ = loop("choose", "prompts.txt", "--out", "answers.jsonl")
    assert code == 0 and "3 prompts answered by x, round 1" in out and (tmp_path / "answers.jsonl").read_text() == printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "the following arguments are required: PROMPTS"),
        ("none.txt", "the file cannot be read: No such file or directory"),
        ("folder", "ends neither in .jsonl nor in .txt"),
        ("empty.txt", "there is no prompt in the file"),
        ("bad.jsonl", "line 1 cannot be used: it has no prompt"),
        ("prompts.txt --name y", "there is no run 'y'"),
        ("prompts.txt --round 2", "round 2 has no selector"),
        ("prompts.txt --round -1", "must be a whole number of at least 0, not '-1'"),
        ("prompts.txt --n 1", "must be a whole number of at least 2, not '1'"),
        ("prompts.txt --out folder", "the answers cannot be written there"),
        ("prompts.txt --out none/answers.jsonl", "the answers cannot be written there"),
        ("prompts.txt --out ./prompts.txt", "the answers would replace what is read"),
    ],
)
def test_wrong_words_are_refused_with_one_message(loop, words, message):
    code, out, err = loop("choose", *words.split())
    assert code == 2 and not out and message in err and err.count("error:") == 1 and "to do:" in err


def test_a_run_without_a_selector_and_a_damaged_one(loop, tmp_path):
    journal = tmp_path / "runs" / "x" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if '"stage":"select"' not in line))
    code, _, err = loop("choose", "prompts.txt")
    assert code == 2 and "the run 'x' has no selector yet" in err
    journal.write_text("".join(lines))
    (tmp_path / "runs" / "x" / "round-001" / "policy" / "payload.txt").write_text("?")
    code, _, err = loop("choose", "prompts.txt")
    assert code == 2 and "policy is damaged" in err
    (tmp_path / "runs" / "x" / "config.yaml").unlink()
    assert "has no config.yaml" in loop("choose", "prompts.txt")[2]
