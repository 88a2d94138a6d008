"""A run whose labels come from people and a judge, as a user types it: it waits, goes on, pays nothing twice, and never writes the key."""

import json

import pytest

from rewards.comparisons import Comparison, read_jsonl
from tests.unit.rewards.labelers.chat_server import Answer, ChatServer

pytestmark = pytest.mark.slow
KEY = "sk-that-no-file-may-hold"


def test_people_and_a_judge_share_a_round(workspace, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", KEY)
    healthy = False

    def reply(text, before):
        return Answer("tie") if healthy else Answer(f"no such key: {KEY}", 503)

    with ChatServer(reply) as server:
        words = ["--rounds", "1", "labeler.kind=mixture", "labeler.parts=[preferences-file, judge]", "labeler.shares=[0.3, 0.7]"]
        words += ["labeler.double_fraction=0.3", "labeler.path=people.jsonl", "labeler.pairs_per_prompt=1", f"judge.url={server.url}"]
        words += ["labeler.win_rate_fraction=1.0", "judge.key_variable=JUDGE_KEY", "judge.max_retries=1", "judge.backoff_seconds=0"]
        _, down = workspace.small("judged", *words, exit_code=3)
        assert "the judge does not answer: status 503" in down and not server.paid.total()
        healthy = True
        _, waiting = workspace.small("judged", *words, exit_code=3)
        asked = server.paid.total()
        assert "wanted pairs are labeled" in waiting and asked
        run = workspace.folder / "runs" / "judged"
        (wanted,) = run.rglob("wanted.jsonl")
        assert str(wanted) in waiting
        asked_people = [json.loads(line) for line in wanted.read_text().splitlines()]
        pairs = [row["ids"] for row in asked_people if row["job"] == "samples"]
        assert 0 < len(pairs) < len(asked_people)
        people = "".join(json.dumps({"chosen_id": a, "rejected_id": b, "rater": "ann"}) + "\n" for a, b in (r["ids"] for r in asked_people))
        (workspace.folder / "people.jsonl").write_text(people)
        out, err = workspace.small("judged", *words)
        assert server.paid.total() == asked and set(server.paid.values()) == {1} and server.authorizations == {f"Bearer {KEY}"}
    metrics = workspace.status("judged")["rounds"][0]["stages"]["label"]["metrics"]
    rows = read_jsonl(run / "round-000" / "label" / "comparisons.jsonl", Comparison)
    assert metrics["by_part"]["preferences-file"] == len(pairs) == sum(row.labeler == "preferences-file" for row in rows)
    assert metrics["judge_replies"] == asked and metrics["labeled_twice"] > 0 and metrics["parts_agree"] == 0.0
    assert len({(row.chosen_id, row.rejected_id) for row in rows}) == len(rows) == metrics["comparisons"]
    written = [path for folder in (run, workspace.cache / "judge") for path in folder.rglob("*") if path.is_file()]
    assert len(written) > asked and not any(KEY.encode() in path.read_bytes() for path in written)
    assert KEY not in down + waiting + out + err
