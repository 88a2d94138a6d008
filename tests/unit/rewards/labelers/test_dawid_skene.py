"""The model of raters: against the paper's own example, and on votes of simulated raters whose errors are known."""

import random

import numpy as np
import pytest

from configs.schema import LabelerConfig
from rewards.comparisons import Comparison
from rewards.labelers.dawid_skene import fit
from rewards.labelers.raters import combine

ANAESTHETISTS = """
1111111 3334343 1122122 2223121 2223222 2223322 1222111 3333433 2222223 2322223 4444444 2223343 1111111 2223212 1211111 1112111 1111111
1111111 2222221 2221322 2222222 2222221 2223222 2212222 1111111 1111111 2322222 1111111 1111111 1121121 1111111 3333233 1111111 2222222
2223232 4334343 2212232 2323233 3333432 1111111 1111111 1212111 2322222 1211111 2222222
"""
"""Table 1 of the paper: the ratings of 45 patients, 1 to 4. The first three are those of observer 1, then comes one of each other."""


def test_the_papers_example():
    """Dawid and Skene (1979), table 2, two digits: the shares of the four values, and how observer 1 rates patients of the first two."""
    counts = np.zeros((45, 5, 4))
    for patient, ratings in enumerate(ANAESTHETISTS.split()):
        for observer, rating in zip((0, 0, 0, 1, 2, 3, 4), ratings, strict=True):
            counts[patient, observer, int(rating) - 1] += 1
    found = fit(counts, smoothing=0.0)
    assert found.prior == pytest.approx([0.40, 0.42, 0.11, 0.07], abs=0.005)
    assert found.confusion[0, :2] == pytest.approx(np.array([[0.89, 0.11, 0, 0], [0.07, 0.88, 0.05, 0]]), abs=0.006)
    assert found.truth.sum(1) == pytest.approx(np.ones(45)) and found.truth[0, 0] > 0.999
    assert fit(counts).prior == pytest.approx(found.prior, abs=0.01)  # smoothing changes little where there is data


CONFUSION = np.array(
    [
        [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.1, 0.1, 0.8]],
        [[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]],
        [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]],
        [[0.2, 0.7, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8]],  # has understood the question the wrong way round
    ]
)


def simulated(num_items, seed=0):
    """The true values of the items, and each rater's answer to each of them, drawn from CONFUSION."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, num_items, p=[0.4, 0.4, 0.2])
    return truth, np.array([[rng.choice(3, p=rater[value]) for rater in CONFUSION] for value in truth])


def test_simulated_raters():
    """The standard error of a share of 0.2 x 2000 answers is at most 0.025; the bound is four of them."""
    truth, answers = simulated(2000)
    counts = np.eye(3)[answers]
    found = fit(counts)
    assert np.abs(found.confusion - CONFUSION).max() < 0.1
    assert found.accuracy == pytest.approx([0.88, 0.64, 0.8, 0.32], abs=0.05)  # 0.4 x 0.9 + 0.4 x 0.9 + 0.2 x 0.8 = 0.88, and so on
    right, of_most = found.truth.argmax(1) == truth, counts.sum(1).argmax(1) == truth
    assert right.mean() > of_most.mean() + 0.05
    sure = found.truth.max(1) > 0.9
    assert sure.sum() > 500 and right[sure].mean() > 0.9  # a probability is a probability


def rows(answers):
    """Votes on pairs of completions x and y. Value 0 prefers x, 1 prefers y, 2 is a tie. Every other pair has its names swapped."""
    made = []
    for item, given in enumerate(answers):
        names = ("x", "y") if item % 2 else ("y", "x")
        for rater, value in enumerate(given):
            better = names[value % 2]
            other = names[1 - value % 2]
            ids = f"{item}-{better}", f"{item}-{other}"
            made.append(Comparison(f"p{item}", "q", better, other, chosen_id=ids[0], rejected_id=ids[1], tie=value == 2, rater=f"r{rater}"))
    return made


def test_comparisons_of_simulated_raters():
    truth, answers = simulated(400)
    votes = rows(answers)
    made, metrics = combine(votes, LabelerConfig(raters="dawid-skene"))
    most, _ = combine(votes, LabelerConfig(raters="majority"))
    said = [2 if row.tie else (row.chosen == "y") == bool(item % 2) for item, row in enumerate(made)]
    by_most = [2 if row.tie else (row.chosen == "y") == bool(item % 2) for item, row in enumerate(most)]
    assert len(made) == 400 and np.mean(said == truth) > np.mean(by_most == truth) + 0.03
    assert metrics["rater_accuracy"].keys() == {"r0", "r1", "r2", "r3"}
    assert metrics["rater_accuracy"]["r3"] < 0.5 < metrics["rater_accuracy"]["r0"]
    assert all(0.0 < row.confidence <= 1.0 for row in made) and all(row.rater == "r0, r1, r2, r3" for row in made)
    random.Random(0).shuffle(votes)
    again, _ = combine(sorted(votes, key=lambda row: (int(row.prompt_id[1:]), row.rater)), LabelerConfig(raters="dawid-skene"))
    assert again == made


def test_one_vote_and_two_opposite_ones():
    """Nothing tells two raters apart who have seen one pair and disagree, so it is a tie. A single vote stands: a fixed point of EM is at
    (t + 0.1) / (t + 0.1 + 1 - t + 0.01) = t, which is 10/11."""
    votes = rows([[0, 1]])
    (row,), _ = combine(votes, LabelerConfig(raters="dawid-skene"))
    assert row.tie and row.confidence == pytest.approx(0.5, abs=1e-6)
    (row,), metrics = combine(votes[:1], LabelerConfig(raters="dawid-skene"))
    assert not row.tie and row.chosen == votes[0].chosen and metrics.keys() == {"rater_accuracy"}
    assert row.confidence == pytest.approx(10 / 11, abs=1e-3)
    assert combine([], LabelerConfig(raters="dawid-skene")) == ([], {})
