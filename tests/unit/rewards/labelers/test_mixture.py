"""Mixtures: who gets a prompt, how far the parts agree, people are waited for, and wrong labels for experiments."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from configs import UserError, load_config
from configs.errors import WaitingForLabels
from policies.checkpoints import Checkpoints
from rewards.labelers import registry as labelers
from rewards.labelers.label_files import WANTED
from rewards.labelers.mixture import parts_of
from rewards.labelers.picking import pick_pairs
from tests.unit.rewards.labelers.test_labelers import samples, task

PARTS = {"kind": "mixture", "pairs_per_prompt": 2}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judges.py").write_text(
        "def first(pairs):\n    return [pair.first.completion < pair.second.completion for pair in pairs]\n\n\n"
        "def last(pairs):\n    return [pair.first.completion > pair.second.completion for pair in pairs]\n"
    )
    return tmp_path


def mixed(asked, checkpoints=None, **settings):
    return task(asked, checkpoints, **PARTS | {"parts": ["judges.py:first", "judges.py:last"], "shares": [0.3, 0.7]} | settings)


def test_each_prompt_has_its_part_by_seed_and_shares_are_met(here):
    """1,000 prompts: a share of 0.3 has a standard error of 0.0145, and a double fraction of 0.1 one of 0.0095."""
    config = mixed(samples(1)).config
    parts = [parts_of(f"p{p}", config, 0) for p in range(1000)]
    assert parts == [parts_of(f"p{p}", config, 0) for p in range(1000)] != [parts_of(f"p{p}", config, 1) for p in range(1000)]
    twice = sum(len(part) == 2 for part in parts)
    assert twice == pytest.approx(100, abs=40)
    assert sum(part == {0} for part in parts) / (1000 - twice) == pytest.approx(0.3, abs=0.06)


def test_every_pair_is_compared_once_and_the_first_part_decides(here):
    asked = mixed(samples(100))
    found = labelers.label(asked)
    by_pair = Counter(frozenset((row.chosen_id, row.rejected_id)) for row in found.comparisons)
    assert set(by_pair.values()) == {1} and len(by_pair) == len(pick_pairs(asked)) == 200
    for row in found.comparisons:
        part = min(parts_of(row.prompt_id, asked.config, asked.seed))
        assert row.labeler == asked.config.parts[part] and (row.chosen < row.rejected) == (part == 0)
    # The two judges always disagree, on the prompts that both have labeled, of which each has two pairs.
    doubled = sum(len(parts_of(f"p{p}", asked.config, asked.seed)) == 2 for p in range(100))
    counts = found.counts()
    assert (counts["labeled_twice"], counts["parts_agree"]) == (2 * doubled, 0.0) and doubled > 2 and counts["parts_alpha"] < 0
    assert sum(counts["by_part"].values()) == 200


def test_without_doubles_there_is_no_agreement(here):
    counts = labelers.label(mixed(samples(20), double_fraction=0.0)).counts()
    assert (counts["labeled_twice"], counts["parts_agree"], counts["parts_alpha"]) == (0, None, None)


def test_people_are_waited_for_and_the_judge_is_asked_once(here):
    """People get 30 % of the prompts and all doubled ones. They answer in two parts, and label one pair that nobody asked them about."""
    settings = {"parts": ["preferences-file", "judges.py:last"], "path": "labels.jsonl"}
    asks = "    with open('asked', 'a') as file:\n        file.write('x' * len(pairs))\n"
    body = asks + "    return [pair.first.completion > pair.second.completion for pair in pairs]\n"
    (here / "judges.py").write_text("def last(pairs):\n" + body)
    asked = mixed(samples(100), Checkpoints(here / "work"), **settings)
    with pytest.raises(WaitingForLabels, match="0 of .* wanted pairs are labeled") as caught:
        labelers.label(asked)
    assert str(here / "work" / WANTED) in str(caught.value)
    wanted = [json.loads(line) for line in (here / "work" / WANTED).read_text().splitlines()]
    mine = [pair for pair in pick_pairs(asked) if 0 in parts_of(pair.prompt_id, asked.config, asked.seed)]
    assert [row["ids"] for row in wanted] == [[pair.first.id, pair.second.id] for pair in mine]
    rows = [dict(zip(("chosen_id", "rejected_id"), sorted(row["ids"]), strict=True)) | {"rater": "ann"} for row in wanted]
    other = next(pair for pair in pick_pairs(asked) if parts_of(pair.prompt_id, asked.config, asked.seed) == {1})
    rows.append({"chosen_id": other.first.id, "rejected_id": other.second.id, "tie": True, "rater": "ann"})
    (here / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[5:]))
    with pytest.raises(WaitingForLabels, match=f"{len(wanted) - 5} of {len(wanted)} wanted pairs"):
        labelers.label(asked)
    now = [json.loads(line) for line in (here / "work" / WANTED).read_text().splitlines()]
    assert [row["labeled"] for row in now] == [False] * 5 + [True] * (len(wanted) - 5)
    (here / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = labelers.label(asked)
    by_judge = sum(1 in parts_of(pair.prompt_id, asked.config, asked.seed) for pair in pick_pairs(asked))
    assert len((here / "asked").read_text()) == by_judge
    assert len(found.comparisons) == 200 and found.counts()["by_part"] == {"preferences-file": len(rows), "judges.py:last": 200 - len(rows)}
    assert found.counts()["parts_agree"] == 0.0 and found.counts()["labeled_twice"] == by_judge - (200 - len(rows))
    assert labelers.label(mixed(samples(100), Checkpoints(here / "work"), **settings | {"min_labels": 5})).comparisons == found.comparisons


def test_pairs_that_are_labeled_by_texts_are_not_waited_for(here):
    """Every text stands twice among the samples of its prompt, and a row by texts means the first of the two. All pairs have a label, and
    one row each, so the run goes on."""
    settings = {"parts": ["preferences-file", "judges.py:last"], "path": "labels.jsonl", "double_fraction": 1.0}
    twice = [replace(sample, id=f"{sample.id}{end}") for sample in samples(20) for end in ("", "-again")]
    asked = mixed(twice, Checkpoints(here / "work"), **settings)
    pairs = {pair.texts: pair for pair in pick_pairs(asked)}.values()
    assert any(sample.id.endswith("-again") for pair in pairs for sample in (pair.first, pair.second))
    rows = [{"prompt": p.first.prompt, "chosen": p.first.completion, "rejected": p.second.completion, "round": 0} for p in pairs]
    (here / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    with pytest.raises(WaitingForLabels, match="wanted pairs are labeled"):
        labelers.label(asked)
    now = [json.loads(line) for line in (here / "work" / WANTED).read_text().splitlines()]
    assert {row["prompt"] for row in now if not row["labeled"]} == {rows[0]["prompt"]}
    (here / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert labelers.label(asked).counts()["by_part"]["preferences-file"] == len(rows)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["labeler.kind=mixture"], "has 0 parts"),
        (["labeler.kind=mixture", "labeler.parts=[gold, judge]", "labeler.shares=[0.5]"], "2 of them different, and 1 shares"),
        (["labeler.kind=mixture", "labeler.parts=[gold, gold]", "labeler.shares=[0.5, 0.5]"], "1 of them different"),
        (["labeler.kind=mixture", "labeler.parts=[gold, judge]", "labeler.shares=[0.5, 0.4]"], "add up to 0.9"),
        (["labeler.parts=[gold, judge]"], "not for gold"),
        (["labeler.kind=mixture", "labeler.parts=[gold, preferences-file]", "labeler.shares=[0.5, 0.5]"], "needs labeler.path"),
    ],
)
def test_parts_that_do_not_fit_are_refused(words, why):
    with pytest.raises(UserError, match=why):
        load_config(overrides=words)


def test_noise_turns_a_stated_fraction_of_what_is_trained_on(here):
    clean = labelers.label(task(samples(100), kind="judges.py:first", pairs_per_prompt=2))
    noisy = labelers.label(task(samples(100), kind="judges.py:first", pairs_per_prompt=2, noise=0.25))
    training = [number for number, row in enumerate(clean.comparisons) if not row.heldout]
    wrong = [n for n, (a, b) in enumerate(zip(clean.comparisons, noisy.comparisons, strict=True)) if a != b]
    assert set(wrong) < set(training) and len(wrong) == noisy.counts()["turned"] == round(len(training) * 0.25)
    row, turned = clean.comparisons[wrong[0]], noisy.comparisons[wrong[0]]
    assert (turned.chosen, turned.rejected, turned.chosen_id) == (row.rejected, row.chosen, row.rejected_id)
    assert replace(turned, chosen=row.chosen, rejected=row.rejected, chosen_id=row.chosen_id, rejected_id=row.rejected_id) == row
    assert noisy.comparisons == labelers.label(task(samples(100), kind="judges.py:first", pairs_per_prompt=2, noise=0.25)).comparisons
