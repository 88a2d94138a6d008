"""Comparisons of one prompt, joined into its candidates."""

from rewards.comparisons import Comparison, group_candidates


def test_groups_count_wins():
    rows = [
        Comparison("p", "q", "a", "b", generation=0),
        Comparison("p", "q", "a", "c", generation=0),
        Comparison("p", "q", "b", "c", generation=0, tie=True),
        Comparison("p", "q", "a", "b", generation=1),
    ]
    first, second = group_candidates(rows)
    assert [(c.completion, c.wins) for c in first.candidates] == [("a", 2.0), ("b", 0.5), ("c", 0.5)]
    assert len(second.candidates) == 2


def test_equal_completions_are_one_candidate():
    """One label names samples, the other brings their texts; a completion that was cut off is another candidate."""
    rows = [
        Comparison("p", "q", "a", "b", generation=0, chosen_id="1", rejected_id="2"),
        Comparison("p", "q", "a", "b", generation=0),
        Comparison("p", "q", "a", "b", generation=0, rejected_finished=False),
    ]
    (group,) = group_candidates(rows)
    assert [(c.completion, c.finished, c.wins) for c in group.candidates] == [("a", True, 3.0), ("b", True, 0.0), ("b", False, 0.0)]
