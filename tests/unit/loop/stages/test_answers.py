"""Single answers on their way through the stages: read, measured, and trained on by SFT."""

import json

from loop.stages import STAGES as FUNCTIONS
from loop.stages import setup
from policies.tokenization import encode_completion, encode_prompt
from rewards.comparisons import Demonstration, read_jsonl
from tests.unit.loop.stages.contexts import context


def test_sft_is_trained_on_single_answers(backbone, tmp_path, monkeypatch):
    """60 pairs and 40 answers, of which those to odd questions are longer than the limit of 64 tokens."""
    pairs = [{"prompt": f"say {i}", "chosen": f"yes {i}", "rejected": "no"} for i in range(60)]
    answers = [{"question": f"What is {i}?", "answer": "long " * 80 if i % 2 else f"It is {i}."} for i in range(40)]
    for name, rows in (("pairs", pairs), ("solved", answers)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [{"path": str(tmp_path / "pairs.jsonl")}, {"path": str(tmp_path / "solved.jsonl"), "kind": "answers"}]
    made = FUNCTIONS["data"](context("data", {}, backbone, tmp_path / "data", data={"sources": sources}))
    training = read_jsonl(tmp_path / "data" / "answers.jsonl", Demonstration)
    assert made["answers"] == len(training) > 20
    filtered = FUNCTIONS["filter"](context("filter", {"data": tmp_path / "data", "base": tmp_path}, backbone, tmp_path / "filter"))
    short = [row for row in training if row.answer.startswith("It")]
    assert read_jsonl(tmp_path / "filter" / "answers.jsonl", Demonstration) == short
    assert filtered["answers"] == len(short) and filtered["answers_left_out"] == {"completion too long": len(training) - len(short)}

    def train(backbone, adapter, examples, *others):
        trained.extend(examples)
        return [{"loss": 1.0}]

    trained = []
    monkeypatch.setattr(setup, "train_sft", train)
    folders = {"data": tmp_path / "filter", "base": tmp_path}
    metrics = FUNCTIONS["sft"](context("sft", folders, backbone, tmp_path / "sft"))
    expected = [(encode_prompt(backbone.tokenizer, r.prompt), encode_completion(backbone.tokenizer, r.answer)) for r in short]
    assert trained[-len(short) :] == expected and len(trained) == metrics["pairs"] + metrics["answers"]
