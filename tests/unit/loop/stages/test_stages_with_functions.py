"""Functions of the user's through the real stages, in this process, on a tiny backbone: a source, a judge, a selector and a rule."""

import json

import pytest
import torch

from configs.schema import RunConfig
from configs.views import visible
from loop.round import STAGES
from loop.stages import STAGES as FUNCTIONS
from loop.stages import Context
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from policies.responses import Response
from rewards import sampling
from rewards.comparisons import Comparison, PromptRecord, Sample, read_jsonl, write_jsonl
from rewards.scoring import Scorer

MINE = """
def pairs():
    for number in range(60):
        yield {"prompt": f"question {number}", "chosen": "yes", "rejected": "no", "source": "mail"}


def judge(pairs):
    return [len(pair.first.completion) < len(pair.second.completion) for pair in pairs]


def score(answers):
    return [-len(answer.completion) for answer in answers]


def mentions_seven(reply):
    return "7" in reply.question
"""


@pytest.fixture
def run(backbone, tmp_path, monkeypatch):
    """Runs one stage by the functions of `mine.py`, and returns its metrics and its directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    settings = {
        "data": {"source": "mine.py:pairs"},
        "labeler": {"kind": "mine.py:judge"},
        "select": {"kinds": ["mine.py:score", "longest"], "use": "mine.py:score"},
        "evaluate": {"rules": ["mine.py:mentions_seven", "empty"]},
    }
    config = RunConfig.model_validate(settings)

    def run(name, **inputs):
        stage = next(found for found in STAGES if found.name == name)
        output = tmp_path / name
        output.mkdir()
        context = Context(
            name,
            0,
            visible(config, stage.visible),
            {"base": tmp_path} | inputs,
            output,
            Checkpoints(),
            report_nothing,
            get_backbone=lambda folder: backbone,
        )
        return FUNCTIONS[name](context), output

    return run


def test_a_source_yields_the_original_pairs(run):
    metrics, folder = run("data")
    assert metrics["pairs"] + metrics["heldout_pairs"] == 60 and metrics["by_source"] == {"pairs/mail": metrics["pairs"]}
    assert {pair.chosen for pair in read_jsonl(folder / "pairs.jsonl", Comparison)} == {"yes"}
    (account,) = json.loads((folder / "sources.json").read_text())
    assert (account["name"], account["rows"], account["used"], list(account["files"])) == ("pairs", 60, 60, ["mine.py:pairs"])


def test_a_judge_labels(run, tmp_path):
    samples = [Sample(f"0-0-p{p}-{k}", f"p{p}", f"question {p}", "a" * (k + 1), True, 0, k) for p in range(9) for k in range(3)]
    write_jsonl(tmp_path / "samples.jsonl", samples)
    metrics, folder = run("label", samples=tmp_path)
    rows = read_jsonl(folder / "comparisons.jsonl", Comparison)
    assert len(rows) == metrics["comparisons"] == 27
    assert all(len(row.chosen) < len(row.rejected) and row.labeler == "mine.py:judge" for row in rows)


def test_a_selector_chooses_without_training(run, backbone, tmp_path):
    """It prefers what is shorter, and so do the labels: it is always right, and the longest candidate never is."""
    backbone.add_adapter("sft")
    backbone.save_adapter("sft", tmp_path / "sft")
    Scorer(backbone, "sft", torch.ones(1, backbone.hidden_size)).save(tmp_path / "reward")
    rows = [Comparison(f"p{i}", f"question {i}", "a", "bc", generation=0, heldout=i % 2 == 0) for i in range(8)]
    (tmp_path / "labels").mkdir()
    write_jsonl(tmp_path / "labels" / "comparisons.jsonl", rows)
    write_jsonl(tmp_path / "samples.jsonl", [Sample(f"0-0-p0-{k}", "p0", "question 0", "bcd"[k:], True, 0, k) for k in range(3)])
    models = {"sft": tmp_path / "sft", "reward": tmp_path / "reward", "retrained": tmp_path / "reward"}
    metrics, folder = run("select", samples=tmp_path, labels=[tmp_path / "labels"], **models)
    judged = {kind: found["pairwise"]["accuracy"] for kind, found in metrics["judged"].items()}
    assert judged == {"mine.py:score": 1.0, "longest": 0.0} and metrics["judged_before"] == {}
    assert json.loads((folder / "mine.py-score" / "selector.json").read_text()) == {"function": "mine.py:score"}
    chosen = [json.loads(line) for line in (folder / "chosen.jsonl").read_text().splitlines()]
    assert [(row["sample_id"], row["completion"]) for row in chosen] == [("0-0-p0-2", "d")] + [("", "a")] * 7


def test_a_rule_is_counted(run, backbone, tmp_path, monkeypatch):
    """The policy always answers nothing. Of the questions 0 to 19, 7 and 17 have a 7 in them."""
    end = backbone.tokenizer.eos_token_id
    monkeypatch.setattr(sampling, "generate_sharded", lambda backbone, adapter, prompts, *rest: [Response([end], True) for _ in prompts])
    backbone.add_adapter("sft")
    backbone.save_adapter("sft", tmp_path / "sft")
    write_jsonl(tmp_path / "heldout_prompts.jsonl", [PromptRecord(f"p{i}", f"question {i}") for i in range(20)])
    metrics, _ = run("baseline", data=tmp_path, sft=tmp_path / "sft")
    assert metrics["defects"] == {"mine.py:mentions_seven": 0.1, "empty": 1.0}
