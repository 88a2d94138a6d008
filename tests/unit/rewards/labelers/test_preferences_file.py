"""Label files: each line is used, counted under a reason, or refused with its number."""

import json

import pytest

from configs import UserError
from configs.errors import WaitingForLabels
from rewards.comparisons import Sample, round_of, sample_id
from rewards.data.splits import content_id
from rewards.labelers.matching import ANOTHER_ROUND, EQUAL_TEXTS, SAID_BEFORE
from rewards.labelers.preferences_file import compare_by_file
from tests.unit.rewards.labelers.tasks import SPLIT, file_task

ROUND = 1


def samples():
    """Three prompts with four samples of round 1 each. Of prompt 2, samples 0 and 3 are the same text, 3 cut off."""
    made = []
    for p in range(3):
        for k in range(4):
            text = "answer 0" if (p, k) == (2, 3) else f"answer {k}"
            made.append(Sample(sample_id(ROUND, ROUND, f"p-{p}", k), f"p-{p}", f"prompt {p}", text, (p, k) != (2, 3), ROUND, k))
    return made


def ids(p, a, b, **more):
    return {"chosen_id": f"1-1-p-{p}-{a}", "rejected_id": f"1-1-p-{p}-{b}"} | more


def texts(**more):
    return {"prompt": "q", "chosen": "a", "rejected": "b", "round": ROUND} | more


def read(folder, rows, name="labels.jsonl"):
    (folder / name.replace("{round}", str(ROUND))).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return compare_by_file(file_task(samples(), folder / name, ROUND))


def test_the_round_is_the_first_part_of_an_id():
    assert [round_of(sample_id(r, g, "a-b-7", 3)) for r, g in ((0, 0), (3, 3), (3, 2))] == [0, 3, 3]
    for not_an_id in ("", "3", "3-3-p", "a-3-p-0", "3-a-p-0", "3-1-p-0", "3-4-p-0", "03-3-p-0", "3-3-p-x", "٣-3-p-0", "3-None-p-0"):
        assert round_of(not_an_id) is None


def test_ids_and_texts(tmp_path):
    rows = [
        ids(0, 1, 2, rater="ann", labeled_at="2026-11-22", comment={"why": ["shorter"]}),
        ids(1, 1, 2, tie=True, rater=None, round=1),
        texts(),
        texts(prompt=[{"role": "user", "content": "q"}], chosen=[{"role": "assistant", "content": "c"}], score_chosen=1, score_rejected=1),
    ][::-1]
    found = read(tmp_path, rows)
    assert [(c.prompt, c.chosen, c.rejected, c.tie, c.rater, c.labeled_at) for c in found.comparisons] == [
        ("prompt 0", "answer 1", "answer 2", False, "ann", "2026-11-22"),
        ("prompt 1", "answer 1", "answer 2", True, "", ""),
        ("q", "a", "b", False, "", ""),
        ([{"role": "user", "content": "q"}], "b", "c", True, "", ""),
    ]  # samples in their order, and texts behind them
    assert all(c.labeler == "preferences-file" and c.generation == ROUND for c in found.comparisons)
    assert found.rows == 4 and not found.left_out


def test_other_rounds_are_counted(tmp_path):
    other = [{"chosen_id": "0-0-p-0-1", "rejected_id": "0-0-p-0-2"}, {"chosen_id": "2-1-p-0-1", "rejected_id": "2-2-p-0-2"}]
    found = read(tmp_path, [ids(0, 1, 2), *other, texts(round=5)])
    assert (len(found.comparisons), dict(found.left_out), found.rows) == (1, {ANOTHER_ROUND: 3}, 4)
    with pytest.raises(WaitingForLabels, match=r"no comparison for this round \(2 x about another round\)"):
        read(tmp_path, other)


def test_a_file_that_is_not_there_or_empty_is_waited_for(tmp_path):
    with pytest.raises(WaitingForLabels, match="round-3.jsonl"):
        compare_by_file(file_task(samples(), tmp_path / "round-{round}.jsonl", round_number=3))
    with pytest.raises(WaitingForLabels, match="no comparison for this round"):
        read(tmp_path, [])


def test_what_is_said_twice_counts_once(tmp_path):
    a = {"prompt": "prompt 0", "chosen": "answer 1", "rejected": "answer 2", "round": 1}
    rows = [ids(0, 1, 2), ids(0, 1, 2, labeled_at="later"), a, ids(0, 1, 2, rater="ann"), ids(0, 2, 1, rater="bob"), texts(), texts()]
    rows += [ids(1, 1, 2, tie=True), ids(1, 2, 1, tie=True)]
    found = read(tmp_path, rows)
    # Once each: nobody's, ann's and bob's verdict on 0 1 2; the texts; the tie.
    assert (len(found.comparisons), dict(found.left_out)) == (5, {SAID_BEFORE: 4})


@pytest.mark.parametrize("order", [1, -1])
def test_texts_of_samples_name_all_samples_that_read_alike(tmp_path, order):
    """Of prompt 2, samples 0 and 3 read alike. A verdict on the text is the same as one on either."""
    by_text = {"prompt": "prompt 2", "chosen": "answer 0", "rejected": "answer 1", "round": 1}
    found = read(tmp_path, [ids(2, 3, 1), by_text][::order])
    assert (len(found.comparisons), dict(found.left_out)) == (1, {SAID_BEFORE: 1})
    assert read(tmp_path, [by_text]).comparisons[0].chosen_id == "1-1-p-2-0"  # the finished one


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (ids(0, 1, 2, tie="false"), 'tie must be true or false, not "false"'),
        (ids(0, 1, 2, tie=0), "tie must be true or false, not 0"),
        (ids(0, 1, 2, tie=None), "tie must be true or false, not null"),
        (ids(0, 1, 2, rater=7), "rater must be a string, not 7"),
        (ids(0, 1, 2, round="1"), 'round must be a whole number, not "1"'),
        (ids(0, 1, 2, round=True), "round must be a whole number, not true"),
        (ids(0, 1, 2, round=-1), "round must be 0 or more, not -1"),
        ({"chosen_id": "1-1-p-0-1"}, "rejected_id is missing"),
        ({"chosen_id": "1-1-p-0-1", "rejected_id": None}, "rejected_id must be a string, not null"),
        ({"chosen_id": 3, "rejected_id": "1-1-p-0-1"}, "chosen_id must be a string, not 3"),
        ({"chosen_ID": "1-1-p-0-1", "rejected_id": "1-1-p-0-2"}, "unknown key \"chosen_ID\", did you mean 'chosen_id'?"),
        (ids(0, 1, 2, is_tie=True), 'unknown key "is_tie", the legal ones are tie, rater'),
        (ids(0, 1, 9), 'there is no sample "1-1-p-0-9"'),
        (ids(0, 1, 2) | {"chosen_id": ""}, 'there is no sample ""'),
        ({"chosen_id": "1-1-p-0-1", "rejected_id": "0-0-p-0-1"}, "it is about several rounds: 0, 1"),
        (ids(0, 1, 2, round=0), "it is about several rounds: 0, 1"),
        (ids(0, 1, 1), "are the same"),
        ({"chosen_id": "1-1-p-0-1", "rejected_id": "1-1-p-1-1"}, "answer different prompts"),
        (ids(0, 1, 2, chosen="a"), "both ids and texts"),
        (ids(0, 1, 2, source="x"), "source does not belong beside ids"),
        ({"tie": True}, "names no completions"),
        ({"prompt": "q", "chosen": "a"}, "rejected is missing"),
        (texts(chosen=""), "chosen is empty"),
        (texts(tie="false"), "tie must be true or false"),
        (texts(chosen=[{"role": "assistant", "content": "a"}, {"role": "user", "content": "thanks"}]), "end with the assistant"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "does not say which round it is for"),
    ],
)
def test_a_line_that_cannot_be_used_is_refused_with_its_number(tmp_path, row, why):
    with pytest.raises(UserError) as caught:
        read(tmp_path, [ids(1, 0, 1), row])
    assert why in caught.value.what and caught.value.what.startswith("line 2 ")
    assert caught.value.where == f"{tmp_path / 'labels.jsonl'}, line 2"


def test_one_rater_who_says_two_things_is_refused_with_both_lines(tmp_path):
    for second in (ids(0, 2, 1, rater="ann"), ids(0, 1, 2, rater="ann", tie=True)):
        with pytest.raises(UserError, match="line 3 cannot be used: line 1 gives another verdict"):
            read(tmp_path, [ids(0, 1, 2, rater="ann"), ids(1, 1, 2), second])


def test_equal_texts_are_counted(tmp_path):
    """A person may be shown the same text twice; the labelers inside do not compare such samples either."""
    twins = [Sample(f"1-1-p-{k}", "p", "q", "one answer" if k < 2 else "another", True, 1, k) for k in range(3)]
    path = tmp_path / "l.jsonl"
    rows = [
        {"chosen_id": "1-1-p-0", "rejected_id": id, "tie": tie} for id, tie in (("1-1-p-1", False), ("1-1-p-1", True), ("1-1-p-2", True))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare_by_file(file_task(twins, path, ROUND))
    assert (len(found.comparisons), dict(found.left_out)) == (1, {EQUAL_TEXTS: 2})


def test_texts_need_no_round_where_the_path_has_it(tmp_path):
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert len(read(tmp_path, [row], "round-{round}.jsonl").comparisons) == 1


def test_labels_by_id_and_by_text_are_on_the_same_side(tmp_path):
    """One question in two forms: as messages, as the samples have it, and as plain text. 20 questions, so that both sides occur."""
    sides = set()
    for number in range(20):
        question = f"question {number}"
        messages = [{"role": "user", "content": question}]
        prompt_id = content_id(messages)
        asked = [Sample(sample_id(ROUND, ROUND, prompt_id, k), prompt_id, messages, text, True, ROUND, k) for k, text in enumerate("ab")]
        rows = [
            {"chosen_id": asked[0].id, "rejected_id": asked[1].id},
            texts(prompt=messages, chosen=[{"role": "assistant", "content": "c"}], rejected=[{"role": "assistant", "content": "d"}]),
            texts(prompt=question),
        ]
        (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = compare_by_file(file_task(asked, tmp_path / "labels.jsonl", ROUND)).comparisons
        assert {row.heldout for row in found} == {SPLIT.holds_out(question)}
        assert found[0].prompt_id == found[2].prompt_id != found[1].prompt_id
        sides.add(found[0].heldout)
    assert sides == {True, False}


COMPOSED, DECOMPOSED = "\u0e19\u0e49\u0e33", "\u0e19\u0e4d\u0e49\u0e32"
"""The Thai word for water: with sara am as one character, and as two around the tone mark."""


def read_normalized(folder, rows, is_normalized=True):
    """The labels of two samples of the prompt "water?", of which the second has sara am as two characters."""
    prompt, path = f"{COMPOSED}?", folder / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = [Sample(sample_id(1, 1, "p", k), content_id(prompt), prompt, text, True, 1, k) for k, text in enumerate(["no", DECOMPOSED])]
    return compare_by_file(file_task(made, path, ROUND, {"is_normalized": is_normalized}, bad_rows="skip"))


def test_texts_are_normalised_as_the_data_was(tmp_path):
    """A prompt has the same id in any form, so the row finds the samples, in whatever form a tool has written their texts."""
    rows = [
        {"prompt": f"{asked}?", "chosen": text, "rejected": "no", "round": 1}
        for asked in (DECOMPOSED, COMPOSED)
        for text in (DECOMPOSED, COMPOSED)
    ]
    found = read_normalized(tmp_path, rows)
    assert [(row.chosen_id, row.rejected_id, row.chosen) for row in found.comparisons] == [("1-1-p-1", "1-1-p-0", DECOMPOSED)]
    assert found.left_out == {SAID_BEFORE: 3} and found.metrics["normalized"] == {"sara am": 2}
    as_they_are = read_normalized(tmp_path, rows, is_normalized=False)
    assert sorted(row.chosen_id for row in as_they_are.comparisons) == ["", "", "", "1-1-p-1"] and "normalized" not in as_they_are.metrics


def test_texts_of_other_origin_are_normalised_too(tmp_path):
    """Of another answer, the normal form is kept. Two forms of one text are nothing to compare."""
    rows = [{"prompt": f"{DECOMPOSED}?", "chosen": f"{text}!", "rejected": "no", "round": 1} for text in (DECOMPOSED, COMPOSED)]
    rows.append({"prompt": "q", "chosen": DECOMPOSED, "rejected": COMPOSED, "round": 1})
    rows.append({"prompt": f"{COMPOSED}?", "chosen": DECOMPOSED, "rejected": COMPOSED, "round": 1})
    found = read_normalized(tmp_path, rows)
    assert [(row.prompt_id, row.chosen) for row in found.comparisons] == [(content_id(f"{COMPOSED}?"), f"{COMPOSED}!")]
    assert found.left_out == {SAID_BEFORE: 1, "cannot be used": 1, EQUAL_TEXTS: 1}
    assert "line 3" in found.metrics["unmatched"]
