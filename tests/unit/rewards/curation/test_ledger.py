"""original = kept + removed + moved, for each source."""

import json

import pytest

from rewards.curation.ledger import HELD_OUT, KEEP, PROMPTS, DoesNotAddUp, Ledger, line, move, reasons, remove, table


@pytest.fixture
def ledger():
    """English: 10 = 5 kept + 3 removed + 2 moved. Thai: 4 = 4 kept. Then a later step moves one more English row."""
    ledger = Ledger()
    for end, count in ((KEEP, 6), (remove("chosen is empty"), 1), (remove("said before"), 2), (move(HELD_OUT), 1)):
        ledger.add("english", end, count)
    ledger.add("ไทย", KEEP, 4)
    ledger.change("english", KEEP, move(PROMPTS))
    ledger.generate("round-000", {"english": 3})
    ledger.generate("round-001", {"ไทย": 2, "english": 1})
    return ledger


def test_tables(ledger):
    ledger.check()
    assert table(ledger, ["round-000", "round-001"]) == (
        ["source", "original", "removed", "moved", "kept", "round-000", "round-001"],
        [["english", "10", "3", "2", "5", "3", "1"], ["ไทย", "4", "0", "0", "4", "0", "2"], ["total", "14", "3", "2", "9", "3", "3"]],
    )
    assert table(ledger)[1][0] == ["english", "10", "3", "2", "5", "4"]  # one column for all that was generated
    assert reasons(ledger)[1] == [
        ["english: remove, said before", "2"],
        ["english: remove, chosen is empty", "1"],
        ["english: move, held out", "1"],
        ["english: move, prompts only", "1"],
    ]
    assert line(ledger) == "ledger: original 14 = kept 9 + removed 3 + moved 2; generated: round-000 3, round-001 3"


def test_json_gives_the_same_ledger(ledger):
    assert Ledger.from_json(json.loads(json.dumps(ledger.as_json()))) == ledger


def test_a_ledger_that_does_not_add_up_is_refused(ledger):
    ledger.entries["english"].kept += 1
    with pytest.raises(DoesNotAddUp, match="english"):
        ledger.check()


def test_no_end_can_have_fewer_than_no_rows(ledger):
    ledger.change("ไทย", KEEP, remove("said before"), 5)  # -1 are kept, and the sum is still 4
    with pytest.raises(DoesNotAddUp, match="ไทย"):
        ledger.check()
