"""Labels that a committee picks, answers that a selector chooses, and the report of it all, in runs as a user types them."""

import json

import pytest

from rewards.comparisons import Comparison, Sample, read_jsonl
from tests.unit.loop.report.test_page import Reader

pytestmark = pytest.mark.slow
BUDGET = 20


@pytest.fixture(scope="module")
def frugal(workspace):
    """Two small rounds with 20 labels of training prompts each."""
    workspace.small("frugal", "--rounds", "2", "labeler.pick=disagreement", f"labeler.budget={BUDGET}")
    return workspace


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_every_round_meets_its_budget(frugal):
    """A quarter of the 20 is random. The last round's selector is on the committee of round 1, and not of round 0."""
    for number, members in enumerate((["reward_model", "sft"], ["selector", "reward_model"])):
        folder = frugal.folder / "runs" / "frugal" / f"round-{number:03d}"
        labels = read_jsonl(folder / "label" / "comparisons.jsonl", Comparison)
        training = [row for row in labels if not row.heldout]
        assert len(training) == BUDGET and sum(row.picked == "random" for row in training) == BUDGET / 4
        assert labels != training and all(row.picked == "random" for row in labels if row.heldout)
        scores = rows_of((folder / "committee" / "scores.jsonl").read_text())
        assert [*scores[0]] == ["id", *members]
        assert {row["id"] for row in scores} == {sample.id for sample in read_jsonl(folder / "sample" / "samples.jsonl", Sample)}
        compared = {frozenset((row.chosen_id, row.rejected_id)) for row in labels}
        proposed = rows_of((folder / "select" / "to_label.jsonl").read_text())
        assert proposed and not {frozenset(row["ids"]) for row in proposed} & compared


def test_a_budget_that_the_samples_cannot_meet_ends_the_run_with_one_message(frugal):
    _, err = frugal.small("greedy", "--rounds", "1", "labeler.budget=9999", exit_code=2)
    assert "labeler.budget asks for 9999 pairs" in err and "samples.jsonl" in err


def test_the_selectors_favourite_answers_a_prompt(frugal):
    """The prompt is one of the world's, as text. Equal commands give equal rows; another round's policy gives others."""
    (frugal.folder / "asked.txt").write_text("What colour is a mango?\nมะม่วงสีอะไร\n", encoding="utf-8")
    before = frugal.digests("frugal")
    out, err = frugal.loop("choose", "asked.txt", "--name", "frugal", "--n", "4", "--all")
    rows = rows_of(out)
    assert not err and [row["prompt"][0]["content"] for row in rows] == ["What colour is a mango?", "มะม่วงสีอะไร"]
    for row in rows:
        scores = [candidate["score"] for candidate in row["candidates"]]
        assert len(scores) == 4 and row["score"] == max(scores)
        # The score of `features` is a weighted sum, so the reasons add up to the distance of the score from the mean score.
        assert sum(row["reasons"].values()) == pytest.approx(row["score"] - sum(scores) / 4, abs=1e-4)
    assert frugal.loop("choose", "asked.txt", "--name", "frugal", "--n", "4", "--all")[0] == out
    assert frugal.loop("choose", "asked.txt", "--name", "frugal", "--n", "4", "--all", "--round", "0")[0] != out
    assert frugal.digests("frugal") == before and not (frugal.folder / "runs" / "frugal" / "work").exists()


def test_what_choose_cannot_answer(frugal):
    (frugal.folder / "long.txt").write_text("mango " * 200)
    assert "prompt too long" in frugal.loop("choose", "long.txt", "--name", "frugal", exit_code=2)[1]
    assert "there is no run 'none'" in frugal.loop("choose", "long.txt", "--name", "none", exit_code=2)[1]


def test_the_report_of_a_real_run_has_its_figures_and_samples(frugal):
    """32 held-out prompts answered by three policies; labels of each round. Making it changes nothing in the run."""
    before = frugal.digests("frugal")
    out, err = frugal.loop("report", "frugal", "--output", "report.html")
    page = Reader((frugal.folder / "report.html").read_text(encoding="utf-8"))
    assert not err and "written to report.html" in out
    gold = frugal.status("frugal")["rounds"][1]["stages"]["evaluate"]["metrics"]["gold"]["mean"]
    assert f"{gold:.2f} after round 1" in page.text and "Original rows by source" in page.text
    held_out = [card for card in page.data["cards"] if card["k"] == "held-out"]
    assert len(held_out) == 32 and all([answer["r"] for answer in card["a"]] == [None, 0, 1] for card in held_out)
    assert any(answer["w"][0] for card in page.data["cards"] if card["k"] == "labeled" for answer in card["a"])
    assert frugal.digests("frugal") == before and frugal.loop("verify", "frugal")[0].endswith("nothing damaged\n")
