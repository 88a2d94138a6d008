"""The ledger of a run, from what its stages have measured."""

import json

import pytest

from loop.commands.main import main
from loop.ledger import run_ledger
from loop.store.journal import Journal, fold, read_events
from loop.store.layout import RunFolder

ENTRY = {"original": 10, "kept": 6, "removed": {"chosen is empty": 1}, "moved": {"held out": 3}, "generated": {}}


@pytest.fixture
def run(tmp_path):
    """A run of two rounds. Round 0 draws 12 samples, 4 of them of held-out prompts, and keeps 3 of 8. Round 1 keeps 5 of 8 + 3."""
    run = RunFolder(tmp_path / "x")
    run.path.mkdir()
    journal = Journal(run.journal)

    def commit(stage, metrics, round_number=None):
        journal.append("stage_committed", stage=stage, round=round_number, digest="d", manifest="m", seconds=1.0, metrics=metrics)

    journal.append("run_started", num_rounds=2)
    commit("data", {"ledger": {"mail": ENTRY}})
    commit("filter", {"ledger": {"mail": ENTRY | {"kept": 5, "moved": {"held out": 3, "prompts only": 1}}}})
    commit("sample", {"samples": 12}, 0)
    commit("label", {"comparisons": 6, "left_out": {"said before": 1}}, 0)
    commit("keep", {"generated": 8, "carried": 0, "kept": 3, "newly_kept": {"mail": 3}, "left_out": {"empty": 5}}, 0)
    commit("sample", {"samples": 8}, 1)
    commit("label", {"comparisons": 4}, 1)
    commit("keep", {"generated": 8, "carried": 3, "kept": 5, "newly_kept": {"mail": 2, "web": 1}, "left_out": {"equal text": 6}}, 1)
    commit("sample", {"samples": 8}, 2)  # a round that is not finished has no account yet
    return run


def test_it_grows_by_round_and_adds_up(run):
    found = run_ledger(fold(read_events(run.journal)))
    found.sources.check()
    assert found.sources.entries["mail"].generated == {"round-000": 3, "round-001": 2}
    assert found.sources.entries["web"].generated == {"round-001": 1} and found.sources.entries["web"].original == 0
    assert found.sources.entries["mail"].kept == 5  # after the token limits
    assert [(a.round, a.samples, a.heldout_samples, a.labeled, a.kept) for a in found.rounds] == [
        ("round-000", 12, 4, 6, 3),
        ("round-001", 8, 0, 4, 5),
    ]
    assert [account.adds_up() for account in found.rounds] == [True, True]


def test_an_account_that_lost_a_completion_does_not_add_up(run):
    metrics = {"generated": 8, "carried": 3, "kept": 5, "newly_kept": {}, "left_out": {"equal text": 5}}
    Journal(run.journal).append("stage_committed", stage="keep", round=1, digest="d", manifest="m", seconds=1.0, metrics=metrics)
    assert [account.adds_up() for account in run_ledger(fold(read_events(run.journal))).rounds] == [True, False]


def test_status_has_it(run, capsys):
    assert main(["status", "--runs", str(run.path.parent)]) == 0
    expected = "ledger: original 10 = kept 5 + removed 1 + moved 4; generated: round-000 3, round-001 3"
    assert capsys.readouterr().out.splitlines()[-1] == expected
    assert main(["status", "--json", "--runs", str(run.path.parent)]) == 0
    found = json.loads(capsys.readouterr().out)["ledger"]
    assert found["sources"]["mail"]["moved"] == {"held out": 3, "prompts only": 1}
    assert found["rounds"][0]["labels_left_out"] == {"said before": 1} and found["rounds"][1]["left_out"] == {"equal text": 6}


def test_a_run_without_data_has_none(tmp_path):
    assert run_ledger(fold(read_events(tmp_path / "journal.jsonl"))) is None
