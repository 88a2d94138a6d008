"""Several raters of one pair: agreement against published examples, majority, weights."""

from dataclasses import replace

import pytest

from configs.schema import LabelerConfig
from rewards.comparisons import Comparison
from rewards.labelers.raters import alpha, combine


def units(*coders: str) -> list[list[str]]:
    """Values by unit, from a row of values for each coder. A full stop is a missing value."""
    return [[value for value in unit if value != "."] for unit in zip(*(row.split() for row in coders), strict=True)]


def test_alpha_of_the_published_examples():
    """Krippendorff, Computing Krippendorff's alpha-reliability (2011): example C has 0.743; two coders with two values (A) 0.095.
    Three coders with missing values, the example of Wikipedia's article: 0.691."""
    c = units(
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    )
    assert alpha(c) == pytest.approx(0.743, abs=5e-4)
    assert alpha(units("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0")) == pytest.approx(0.095, abs=5e-4)
    three = units(
        ". . . . . 3 4 1 2 1 1 3 3 . 3",
        "1 . 2 1 3 3 4 3 . . . . . . .",
        ". . 2 1 3 4 4 . 2 1 1 3 3 . 4",
    )
    assert alpha(three) == pytest.approx(0.691, abs=5e-4)


def test_alpha_where_there_is_nothing_to_disagree_about():
    assert alpha([]) is None and alpha([["a"], ["b"]]) is None and alpha([["a", "a"], ["a", "a"]]) is None
    assert alpha([["a", "a"], ["b", "b"]]) == 1.0


def vote(rater, better, tie=False, pair="p"):
    """A comparison of the completions x and y of a prompt."""
    other = "y" if better == "x" else "x"
    return Comparison(pair, "q", better, other, chosen_id=f"{pair}-{better}", rejected_id=f"{pair}-{other}", tie=tie, rater=rater)


def joined(votes, raters="majority", **weights):
    rows, metrics = combine(votes, LabelerConfig(raters=raters, rater_weights=weights))
    return [(row.chosen, row.tie, row.confidence) for row in rows], metrics


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ("xxy", ("x", False, 2 / 3)),
        ("yyx", ("y", False, 2 / 3)),
        ("xy", ("x", True, 0.5)),
        ("xt", ("x", True, 0.75)),  # x has one vote of two and half of the tie
        ("ttx", ("x", True, 2 / 3)),
        ("xxt", ("x", False, 5 / 6)),
        ("xxyyt", ("x", True, 0.5)),
        ("yyxtt", ("y", True, 0.6)),
        ("ttt", ("x", True, 0.5)),
    ],
)
def test_the_majority_decides(votes, expected):
    rows = [vote(f"r{i}", "x" if v == "t" else v, v == "t") for i, v in enumerate(votes)]
    for order in (rows, rows[::-1]):
        found, _ = joined(order)
        assert found == [(*expected[:2], pytest.approx(expected[2]))]


def test_weights_decide_and_unnamed_raters_have_weight_1():
    rows = [vote("expert", "x"), vote("a", "y"), vote("b", "y")]
    assert joined(rows, "weighted", expert=3.0)[0] == [("x", False, pytest.approx(3 / 5))]
    assert joined(rows, "weighted", expert=1.5)[0] == [("y", False, pytest.approx(2 / 3.5))]
    assert joined(rows, "majority", expert=3.0)[0] == [("y", False, pytest.approx(2 / 3))]


def test_all_votes_stay_as_they_are_and_contradictions_are_counted():
    rows = [vote("a", "x"), vote("b", "y"), vote("a", "x", pair="o"), vote("b", "x", tie=True, pair="o"), vote("a", "x", pair="alone")]
    kept, metrics = combine(rows, LabelerConfig())
    # Opposite on p, and x against a tie on o: only the first is a contradiction. In both orders: (0, 1), (1, 0), (0, tie), (1, tie).
    # Observed: 4 units with 2 ordered pairs that differ, each over m - 1 = 1: 8. Expected: 8 x 8 - 3 x 3 - 3 x 3 - 2 x 2 = 42.
    # alpha = 1 - 7 x 8 / 42 = -1/3.
    assert kept == rows and metrics == {"raters": 2, "rater_alpha": pytest.approx(-1 / 3), "contradictions": 1}
    assert combine(rows[:1], LabelerConfig(raters="majority")) == (rows[:1], {})


def test_alpha_of_pairs_does_not_depend_on_what_is_called_first():
    """Ten pairs on which two raters choose x, and one on which they differ. Turned round, x is y."""
    rows = [vote(rater, "x", pair=f"p{p}") for p in range(10) for rater in "ab"] + [vote("a", "x", pair="q"), vote("b", "y", pair="q")]
    turned = [replace(row, chosen_id=row.chosen_id.translate(SWAP), rejected_id=row.rejected_id.translate(SWAP)) for row in rows]
    found, same = (combine(votes, LabelerConfig())[1]["rater_alpha"] for votes in (rows, turned))
    # 22 units in both orders, 44 values, half of them 0. Observed: 2 units x 2. Expected: 44 x 44 - 2 x 22 x 22 = 968.
    assert found == same == pytest.approx(1 - 43 * 4 / 968)


SWAP = str.maketrans("xy", "yx")


def test_the_joined_row_names_its_raters():
    row = combine([vote("bob", "x"), vote("ann", "x")], LabelerConfig(raters="majority"))[0][0]
    assert (row.rater, row.confidence, row.chosen_id) == ("ann, bob", 1.0, "p-x")
