"""The labeler that counts defects."""

from rewards.comparisons import Sample
from rewards.labelers import registry as labelers
from tests.unit.rewards.labelers.test_labelers import task


def test_fewer_defects_win_and_equal_numbers_tie():
    """Two defects (a list, a repetition), one, and none twice: of the six pairs, the two without a defect tie."""
    texts = ["- yes yes yes yes\n- yes yes yes yes", "yes yes yes yes", "Yes.", "It is so."]
    samples = [Sample(f"{p}-{k}", f"p{p}", f"Is it so, {p}?", text, True, 0, k) for p in range(20) for k, text in enumerate(texts)]
    found = labelers.label(task(samples, kind="rules", pairs_per_prompt=6)).comparisons
    assert len(found) == 120 and {row.labeler for row in found} == {"rules"}
    assert sum(row.tie for row in found) == 20
    for row in found:
        better, worse = texts.index(row.chosen), texts.index(row.rejected)
        assert (better >= 2 and worse >= 2) if row.tie else better > worse


def test_its_rules_are_those_of_its_own_setting():
    samples = [Sample(f"s{p}-{k}", f"p{p}", f"q {p}", text, True, 0, k) for p in range(9) for k, text in enumerate(("- a\n- b", "It."))]
    assert all(row.tie for row in labelers.label(task(samples, kind="rules", rules=["empty"])).comparisons)
    assert all(row.chosen == "It." for row in labelers.label(task(samples, kind="rules", rules=["list_only"])).comparisons)
