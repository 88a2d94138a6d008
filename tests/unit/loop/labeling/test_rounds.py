"""Which round and which pairs the page finds in a run."""

from dataclasses import replace
from pathlib import Path

import pytest

from configs.errors import UserError
from loop.labeling.rounds import read_round, waiting_round
from loop.store.journal import Journal
from rewards.comparisons import answer_id
from rewards.data.sources import check_labels
from tests.unit.loop.labeling.made import PEOPLE, asked_in, make_run, plain_samples, samples_of, write_wanted

FILE = "labeler.kind=preferences-file"
PEOPLE_AND_RULES = ("labeler.kind=mixture", "labeler.parts=[preferences-file, rules]", "labeler.shares=[0.5, 0.5]", "labeler.path=l.jsonl")


def test_a_run_that_nobody_has_to_label_is_refused(tmp_path):
    run = make_run(tmp_path / "x", plain_samples(2), labeled_by=())
    with pytest.raises(UserError, match="nobody has to label: the labels of this run come from gold"):
        waiting_round(run)


def test_a_round_that_has_its_labels_does_not_wait(tmp_path):
    run = make_run(tmp_path / "x", plain_samples(2))
    assert asked_in(run).number == 0
    Journal(run.journal).append("stage_committed", round=0, stage="label", key="k", digest="d", manifest="m", seconds=1.0)
    assert waiting_round(run) is None
    assert len(read_round(run, 0).pairs) == 2  # labels can still be exported
    with pytest.raises(UserError, match="round 1 has no samples yet"):
        read_round(run, 1)


def test_damaged_samples_are_refused(tmp_path):
    run = make_run(tmp_path / "x", plain_samples(2))
    with (run.stage("sample", 0) / "samples.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(UserError, match="the samples are damaged"):
        waiting_round(run)


@pytest.mark.parametrize("labeled_by", [PEOPLE, PEOPLE_AND_RULES])
def test_pairs_that_the_label_stage_asks_about(tmp_path, labeled_by):
    """Their texts need not be samples of this round. A mixture asks about no others; with a file alone, all pairs of samples follow."""
    samples = plain_samples(3)
    run = make_run(tmp_path / "x", samples, labeled_by=labeled_by)
    a, b = samples[0], samples[1]
    wanted = [
        {"prompt": a.prompt, "ids": [a.id, b.id], "completions": [a.completion, b.completion]},
        {"prompt": a.prompt, "ids": [a.id, "sft-1"], "completions": [a.completion, "another \u2028 text"]},
    ]
    write_wanted(run, wanted)
    pairs = asked_in(run).pairs
    assert [pair.ids for pair in pairs[:2]] == [{a.id, b.id}, {a.id, "sft-1"}] and [pair.tier for pair in pairs[:2]] == [0, 1]
    assert len(pairs) == 2 + (3 if labeled_by is PEOPLE else 0)  # three prompts with two samples each
    assert pairs[1].answers[1].text == "another \u2028 text"


@pytest.mark.parametrize(
    ("path", "file"),
    [("l/r-{round}.jsonl", "l/r-0.jsonl"), ("l/*.jsonl", "l/loop-label-round-000.jsonl"), ("l/*", "l/loop-label-round-000.jsonl")],
)
def test_where_the_labels_go(tmp_path, path, file):
    assert asked_in(make_run(tmp_path / "x", plain_samples(2), labeled_by=(FILE, f"labeler.path={path}"))).label_file == Path(file)


@pytest.mark.parametrize("path", ["labels.csv", "labels.json", "labels.jsonl.gz", "labels/mine-*.jsonl", "*/labels.jsonl"])
def test_where_no_line_can_be_appended(tmp_path, path):
    with pytest.raises(UserError, match=r"page (can only write a|writes loop-label|writes)"):
        asked_in(make_run(tmp_path / "x", plain_samples(2), labeled_by=(FILE, f"labeler.path={path}")))


def test_the_sign_of_the_home_folder_is_no_folder(tmp_path, monkeypatch):
    """Labels would go to `./~/labels`. A shell does not put the folder into `labeler.path=~/labels/round-{round}.jsonl`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    labeled_by = ("labeler.kind=preferences-file", "labeler.path=~/labels/round-{round}.jsonl")
    run = make_run(tmp_path / "x", plain_samples(1), labeled_by=labeled_by)
    assert asked_in(run).label_file == tmp_path / "home" / "labels" / "round-0.jsonl"
    (tmp_path / "home" / "labels").mkdir(parents=True)
    with pytest.raises(UserError, match="labeler.path is a folder"):
        check_labels("~/labels", "the command line")


def test_equal_texts_are_compared_once(tmp_path):
    """The texts are a, b and a, so of three pairs one compares equal texts and two compare a and b."""
    run = make_run(tmp_path / "x", [replace(sample, finished=True) for sample in samples_of([("q", ["a", "b", "a"])])])
    (pair,) = asked_in(run).pairs
    assert {answer.text for answer in pair.answers} == {"a", "b"}


@pytest.mark.parametrize(("settings", "tier"), [((), 0), (("labeler.min_labels=3",), -1)])
def test_pairs_for_win_rates_have_a_tier_of_their_own(tmp_path, settings, tier):
    """Also the second one of a prompt, which is against the last round's policy. The pairs of samples are numbered without them."""
    run = make_run(tmp_path / "x", plain_samples(2), *settings)
    ids = [[answer_id(0, 0, "w"), answer_id(0, policy, "w")] for policy in (None, 1)]
    write_wanted(run, [{"job": "win-rate", "prompt": "w?", "ids": pair, "completions": ["a", "b"]} for pair in ids])
    assert [pair.tier for pair in asked_in(run).pairs] == [tier, tier, 0, 0]
