"""Comparisons of policies, by every kind of labeler: they only measure, their order is shuffled, and equal answers are ties."""

import json
from dataclasses import replace

import pytest

from configs.errors import UserError, WaitingForLabels
from policies.checkpoints import Checkpoints
from rewards.comparisons import WIN_RATE, Sample, answer_id, sample_id
from rewards.labelers import registry as labelers
from rewards.labelers.label_files import WANTED
from rewards.labelers.labels import Earlier
from rewards.labelers.matching import ANOTHER_ROUND, EQUAL_TEXTS, NO_DUEL
from rewards.labelers.pairs import EQUAL_TEXTS as NOBODY
from rewards.labelers.picking import win_pairs
from tests.unit.rewards.labelers.test_labelers import task

PROMPTS = [f"w{p}" for p in range(40)]
NUM_EQUAL = 10
"""Of the first ten prompts, both policies give the same answer."""


def answers(round_number=0, others=(None,)):
    """The round's policy writes longer answers than the others, except to the first prompts."""
    made = []
    for policy in (round_number, *others):
        for number, prompt in enumerate(PROMPTS):
            text = "same" if number < NUM_EQUAL else f"answer of {policy}" + "!!!!!" * (policy == round_number)
            made.append(Sample(answer_id(round_number, policy, prompt), prompt, f"ask {prompt}", text, True, policy, 0))
    return made


def samples(round_number=0):
    return [
        Sample(sample_id(round_number, round_number, f"p{p}", k), f"p{p}", f"prompt {p}", f"answer {k}", True, round_number, k)
        for p in range(20)
        for k in range(2)
    ]


def asked(checkpoints=None, round_number=0, others=(None,), **settings):
    return replace(task(samples(round_number), checkpoints, **settings), round_number=round_number, answers=answers(round_number, others))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judges.py").write_text("def longer(p):\n    return [len(x.first.completion) > len(x.second.completion) for x in p]\n")
    return tmp_path


def test_the_order_is_shuffled_and_equal_answers_are_not_asked():
    """Of 30 pairs against each of two policies, how often this round's answer is first: 60 coin flips, with an error of 3.9."""
    pairs = win_pairs(asked(round_number=1, others=(None, 0), kind="judges.py:longer"))
    assert len(pairs) == 60 and all(pair.picked == WIN_RATE for pair in pairs)
    assert all({pair.first.generation, pair.second.generation} in ({1, None}, {1, 0}) for pair in pairs)
    assert 18 <= sum(pair.first.generation == 1 for pair in pairs) <= 42


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "judges.py:longer"},
        {"kind": "rules", "rules": ["judges.py:short"]},
        {"kind": "mixture", "parts": ["judges.py:longer", "rules"], "shares": [0.5, 0.5], "rules": ["judges.py:short"]},
    ],
)
def test_policies_are_compared_beside_the_samples(here, settings):
    """The rule finds answers short that do not end in an exclamation mark, so both judges prefer this round's policy."""
    with (here / "judges.py").open("a") as file:
        file.write("\n\ndef short(reply):\n    return not reply.text.endswith('!')\n")
    found, without = labelers.label(asked(**settings)), labelers.label(replace(asked(**settings), answers=()))
    assert found.comparisons == without.comparisons and not without.wins
    decided = [row for row in found.wins if row.labeler != NOBODY]
    assert len(decided) == 30 and all(row.chosen.endswith("!") and not row.tie for row in decided)
    assert sum(row.tie and row.labeler == NOBODY for row in found.wins) == NUM_EQUAL
    assert all(row.picked == WIN_RATE for row in found.wins) and found.counts()["win_comparisons"] == 40


def test_noise_is_for_what_is_trained_on(here):
    settings = {"kind": "judges.py:longer"}
    assert labelers.label(asked(**settings, noise=1.0)).wins == labelers.label(asked(**settings)).wins


# -- people ---------------------------------------------------------------------------------------------------------------


FILE = {"kind": "preferences-file", "path": "labels.jsonl"}


def write(folder, *rows):
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def of_samples(count, round_number=0):
    ids = [[sample_id(round_number, round_number, f"p{p}", k) for k in (0, 1)] for p in range(count)]
    return [{"chosen_id": a, "rejected_id": b} for a, b in ids]


def duel(number, policy=None, round_number=0, **more):
    ids = [answer_id(round_number, of, PROMPTS[number]) for of in (round_number, policy)]
    return dict(zip(("chosen_id", "rejected_id"), ids, strict=True)) | more


def test_people_find_these_pairs_in_the_wanted_list(here):
    """The list has the 30 pairs of different answers with their job, and says which have a label."""
    with pytest.raises(WaitingForLabels, match=r"policies to compare as well, for the win rate: .*wanted.jsonl"):
        labelers.label(asked(Checkpoints(here / "work"), **FILE))
    rows = [json.loads(line) for line in (here / "work" / WANTED).read_text().splitlines()]
    assert len(rows) == 30 and {row["job"] for row in rows} == {WIN_RATE} and not any(row["labeled"] for row in rows)
    write(here, *(duel(number) for number in range(10, 15)))
    with pytest.raises(WaitingForLabels, match="5 comparisons of policies, and none of samples"):
        labelers.label(asked(Checkpoints(here / "work"), **FILE))
    again = [json.loads(line) for line in (here / "work" / WANTED).read_text().splitlines()]
    assert [row["ids"] for row in again] == [row["ids"] for row in rows] and sum(row["labeled"] for row in again) == 5


def test_labels_of_people(here):
    """Three pairs by ids, one by its texts, two raters on one of them. 4 of 30 pairs are labeled, so of the 10 equal ones
    round(10 x 4 / 30) = 1 counts."""
    text = {"prompt": f"ask {PROMPTS[13]}", "chosen": "answer of 0!!!!!", "rejected": "answer of None", "round": 0}
    write(here, *of_samples(5), duel(10), duel(11, tie=True), duel(12, rater="ann"), duel(12, rater="bob"), text)
    found = labelers.label(asked(**FILE))
    assert len(found.comparisons) == 5 and not any(row.picked == WIN_RATE for row in found.comparisons)
    people = [row for row in found.wins if row.labeler != NOBODY]
    assert [row.prompt_id for row in people] == ["w10", "w11", "w12", "w12", "w13"]
    assert all(row.chosen_id == answer_id(0, 0, row.prompt_id) and row.picked == WIN_RATE for row in people)
    assert len(found.wins) == 6 and found.metrics["labels_read"] == 10
    again = labelers.label(asked(**FILE | {"raters": "majority"}))
    assert again.wins == found.wins


def test_rows_that_are_no_comparison_of_policies(here):
    """Equal answers, an answer and a sample, the SFT policy and the last round's, another round: each is counted under its reason."""
    mixed = {"chosen_id": answer_id(1, 1, "w10"), "rejected_id": sample_id(1, 1, "p1", 0)}
    without_own = {"chosen_id": answer_id(1, 0, "w10"), "rejected_id": answer_id(1, None, "w10")}
    rows = [duel(0, round_number=1), mixed, without_own, duel(10, round_number=0), duel(10, policy=0, round_number=1)]
    write(here, *of_samples(3, 1), *rows)
    for late in ("leave-out", "use"):
        earlier = [Earlier(0, samples(0), [])]
        found = labelers.label(replace(asked(round_number=1, others=(None, 0), **FILE | {"late": late}), earlier=earlier))
        assert found.left_out == {EQUAL_TEXTS: 1, NO_DUEL: 2, ANOTHER_ROUND: 1}
        assert [row.prompt_id for row in found.wins if row.labeler != NOBODY] == ["w10"]
    write(here, *of_samples(3, 1), {"chosen_id": "1-sft-w1-Answer", "rejected_id": "x"})
    with pytest.raises(UserError, match="there is no sample"):
        labelers.label(asked(round_number=1, others=(None, 0), **FILE))


def test_policies_count_for_what_is_waited_for(here):
    write(here, *of_samples(3), duel(10), duel(11))
    assert len(labelers.label(asked(**FILE | {"min_labels": 5})).comparisons) == 3
    with pytest.raises(WaitingForLabels, match="it has 5 of 6 comparisons"):
        labelers.label(asked(**FILE | {"min_labels": 6}))


def test_a_mixture_waits_for_its_people(here):
    """People and a judge share the prompts of both jobs. The wanted list begins with the win rate's pairs."""
    settings = {"kind": "mixture", "parts": ["preferences-file", "judges.py:longer"], "shares": [0.5, 0.5], "path": "labels.jsonl"}
    with pytest.raises(WaitingForLabels):
        labelers.label(asked(Checkpoints(here / "work"), **settings))
    rows = [json.loads(line) for line in (here / "work" / WANTED).read_text().splitlines()]
    jobs = [row["job"] for row in rows]
    assert jobs == sorted(jobs, reverse=True) and set(jobs) == {"win-rate", "samples"} and len(jobs) < 50
    chosen = [sorted(row["ids"], key=lambda id: (not id.startswith("0-0"), id)) for row in rows]
    write(here, *({"chosen_id": a, "rejected_id": b} for a, b in chosen))
    found = labelers.label(asked(Checkpoints(here / "work"), **settings))
    assert len(found.comparisons) == 20 and len(found.wins) == 40
    assert {row.labeler for row in found.wins} == {"preferences-file", "judges.py:longer", NOBODY}
