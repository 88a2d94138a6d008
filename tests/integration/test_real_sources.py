"""One round on several real sources at once, in English and Thai, whose samples people and a judge label together."""

import json

import pytest

from tests.unit.rewards.labelers.chat_server import Answer, ChatServer

pytestmark = pytest.mark.slow


def test_a_round_on_four_real_sources(workspace, shared_data, monkeypatch):
    """Each row that a source has is kept, moved or removed, and each sample that is labeled is labeled once."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    sources = [
        {"path": str(shared_data / "hh_harmless" / "pairs.jsonl.gz"), "name": "hh_harmless"},
        {"path": str(shared_data / "llmbar" / "llmbar.jsonl.gz"), "name": "llmbar"},
        {"path": str(shared_data / "oasst_en100" / "en_100_tree.jsonl.gz"), "name": "oasst"},
        {"path": str(shared_data / "xquad_th_en" / "xquad_th.jsonl.gz"), "name": "xquad_th", "columns": {"prompt": "question"}},
    ]
    with ChatServer(lambda text, before: Answer("A" if len(text) % 2 else "B")) as server:
        words = ["--rounds", "1", f"data.sources={json.dumps(sources)}", "data.max_prompt_tokens=192", "data.max_completion_tokens=96"]
        words += ["labeler.kind=mixture", "labeler.parts=[preferences-file, judge]", "labeler.shares=[0.3, 0.7]", f"judge.url={server.url}"]
        words += ["labeler.path=raters.jsonl", "labeler.pairs_per_prompt=1", "base.pretraining_texts=[world, chosen]"]
        workspace.small("four", *words, exit_code=3)
        run = workspace.folder / "runs" / "four"
        (wanted,) = run.rglob("wanted.jsonl")
        rows = [json.loads(line) for line in wanted.read_text(encoding="utf-8").splitlines()]
        labels = "".join(json.dumps({"chosen_id": a, "rejected_id": b, "rater": "สมหญิง"}) + "\n" for a, b in (row["ids"] for row in rows))
        (workspace.folder / "raters.jsonl").write_text(labels, encoding="utf-8")
        workspace.small("four", *words)
        assert set(server.paid.values()) == {1}
    status = workspace.status("four")
    ledger = status["ledger"]["sources"]
    # Rows, and for trees pairs: see the README of the data. 754 pairs of trees are counted in tests/unit/rewards/data/test_real_files.py.
    assert {name: entry["original"] for name, entry in ledger.items()} == {
        "hh_harmless": 1629,
        "llmbar": 885,
        "oasst": 754,
        "xquad_th": 1190,
    }
    for entry in ledger.values():
        assert entry["original"] == entry["kept"] + sum(entry["removed"].values()) + sum(entry["moved"].values())
    pairs_file = (run / "setup" / "filter" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum(entry["kept"] for entry in ledger.values()) == len(pairs_file) > 0
    (account,) = status["ledger"]["rounds"]
    assert account["candidates"] + account["carried"] == account["kept"] + sum(account["left_out"].values())
    metrics = status["rounds"][0]["stages"]["label"]["metrics"]
    of_samples = [row for row in rows if row["job"] == "samples"]  # the others are for win rates
    assert metrics["by_part"]["preferences-file"] == len(of_samples) > 0 and metrics["by_part"]["judge"] > 0
