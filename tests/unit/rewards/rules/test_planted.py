"""The rules on real text with planted defects, as in the table of docs/rules.md, on a smaller draw."""

import pytest

from rewards.rules import RULES
from tests import planted
from tests.benchmarks.rules_table import boilerplate, measure, source_lines

RECALL, FALSE_POSITIVES = 0.95, 0.02
ONE_LANGUAGE = {("cut_off", "th"), ("decomposed_sara_am", "en")}
"""Thai writes no full stop, and English has no sara am: there is nothing to plant, and the rules must not fire."""


def test_planted_defects_are_found_and_clean_text_is_left_alone(shared_data):
    """100 documents of each kind. The bounds are those of the whole table."""
    rows = list(measure(shared_data, "report", 100))
    assert {row.rule for row in rows} == set(RULES) == set(planted.PLANTS)
    assert {(row.rule, row.language) for row in rows if not row.planted} == ONE_LANGUAGE
    assert all(row.planted == row.clean == 100 for row in rows if row.planted)
    assert [str(row) for row in rows if row.planted and row.recall < RECALL] == []
    assert [str(row) for row in rows if row.false_positives > FALSE_POSITIVES] == []


def test_every_source_line_of_the_thai_press_is_found(shared_data):
    assert source_lines(shared_data) == (900, 900)


def test_a_footer_is_hardly_ever_found_in_what_people_marked_as_text(shared_data):
    (_, number), (false, texts) = boilerplate(shared_data).values()
    assert number > 1000 and texts > 1000
    assert false / texts < 0.005


@pytest.mark.parametrize("language", planted.LANGUAGES)
def test_the_halves_share_no_text(shared_data, language):
    halves = [{d.text for d in planted.documents(shared_data) if (d.half, d.language) == (half, language)} for half in planted.HALVES]
    assert not halves[0] & halves[1] and all(len(texts) > 400 for texts in halves)
