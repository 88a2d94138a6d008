"""Label files of other forms: CSV, and the exports of Label Studio and Argilla, as their documents describe them."""

import csv
import gzip
import json

import pytest

from configs import UserError
from configs.errors import WaitingForLabels
from rewards.comparisons import Comparison, Sample, sample_id
from rewards.data.splits import content_id
from rewards.labelers.label_files import NOT_LABELED, SKIPPED
from rewards.labelers.labels import Earlier
from rewards.labelers.matching import ANOTHER_ROUND, CANNOT_BE_USED, REPLACED, SAID_BEFORE, USED_EARLIER
from rewards.labelers.preferences_file import compare_by_file
from tests.unit.rewards.labelers.tasks import file_task

ROUND = 1
PROMPTS = [f"prompt {p}" for p in range(3)]


def samples(round_number=ROUND):
    ids = [content_id(prompt) for prompt in PROMPTS]
    return [
        Sample(sample_id(round_number, round_number, ids[p], k), ids[p], prompt, f"answer {round_number} {k}", True, round_number, k)
        for p, prompt in enumerate(PROMPTS)
        for k in range(3)
    ]


def id_of(p, k, round_number=ROUND):
    return sample_id(round_number, round_number, content_id(PROMPTS[p]), k)


def read(path, earlier=(), **settings):
    return compare_by_file(file_task(samples(), path, ROUND, {"earlier": earlier}, **settings))


def said(found):
    """Prompt, the two answers' numbers, tie and rater of each comparison."""
    return [(row.prompt[-1], row.chosen[-1], row.rejected[-1], row.tie, row.rater) for row in found.comparisons]


# -- CSV ------------------------------------------------------------------------------------------------------------------


def test_csv(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(
        b"\xef\xbb\xbfchosen_id,rejected_id,tie,rater,confidence\r\n"
        + f"{id_of(0, 0)},{id_of(0, 1)},,ann,0.75\r\n\r\n{id_of(1, 2)},{id_of(1, 0)},TRUE,,\r\n".encode()
    )
    found = read(path)
    assert said(found) == [("0", "0", "1", False, "ann"), ("1", "0", "2", True, "")]
    assert [row.confidence for row in found.comparisons] == [0.75, None]
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read(tmp_path / "labels.csv.gz").comparisons == found.comparisons


def test_csv_with_texts(tmp_path):
    (tmp_path / "labels.csv").write_text('prompt,chosen,rejected,round\nprompt 0,answer 1 2,answer 1 0,1\nother,"a\nb",007,1\n')
    found = read(tmp_path / "labels.csv")
    assert [(row.chosen_id, row.chosen, row.rejected) for row in found.comparisons] == [
        (id_of(0, 2), "answer 1 2", "answer 1 0"),
        ("", "a\nb", "007"),
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"%s,%s,maybe,", "tie must be true or false"),
        (b"%s,%s,", "has 3 cells, but there are 4 columns"),
        (b"%s,%s,,caf\xe9", "is not UTF-8 text"),
        (b"%s,%s,,a\0b", "has NUL characters"),
        (b"x%s,%s,,", "there is no sample"),
    ],
)
def test_a_csv_row_that_cannot_be_used_is_refused_or_skipped_with_its_line(tmp_path, line, why):
    path, ids = tmp_path / "labels.csv", (id_of(0, 0).encode(), id_of(0, 1).encode())
    path.write_bytes(b"chosen_id,rejected_id,tie,rater\n" + line % ids + b"\n" + b"%s,%s,,\n" % ids)
    with pytest.raises(UserError, match=f"line 2 cannot be used: .*{why}"):
        read(path)
    found = read(path, bad_rows="skip")
    assert len(found.comparisons) == 1 and found.left_out == {CANNOT_BE_USED: 1} and list(found.metrics["unmatched"]) == ["line 2"]


def test_a_quote_that_is_not_closed_is_refused_because_it_hides_rows(tmp_path):
    path = tmp_path / "labels.csv"
    for text in (f'chosen_id,rejected_id\n"{id_of(0, 0)},{id_of(0, 1)}\n', 'chosen_id,rejected_id\n"a,b\nc,d\n",e,f\n'):
        path.write_text(text)
        with pytest.raises(UserError, match="not CSV|quote"):
            read(path, bad_rows="skip")


# -- Label Studio ---------------------------------------------------------------------------------------------------------


def annotation(selected, by=7, **more):
    value = {"choices": [selected]} if selected == "tie" else {"selected": selected}
    result = {"id": "x", "from_name": "pw", "to_name": "text1,text2", "type": "pairwise", "value": value}
    return {
        "id": 1,
        "completed_by": by,
        "result": [result],
        "was_cancelled": False,
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-02T00:00:00Z",
        "lead_time": 3.5,
    } | more


def test_label_studio(tmp_path):
    by_ids = {"prompt": "prompt 0", "ids": [id_of(0, 0), id_of(0, 1)], "completions": ["answer 1 0", "answer 1 1"]}
    by_texts = {"prompt": "prompt 1", "text1": "answer 1 0", "text2": "answer 1 2", "round": 1}
    tasks = [
        {
            "id": 1,
            "data": by_ids,
            "annotations": [annotation("right", {"id": 3, "email": "ann@x"}), annotation("left", 8)],
            "predictions": [],
        },
        {"id": 2, "data": by_texts, "annotations": [annotation("tie"), annotation("left", 9, was_cancelled=True)]},
        {"id": 3, "data": by_ids, "annotations": []},
    ]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    found = read(path)
    assert said(found) == [("0", "0", "1", False, "8"), ("0", "1", "0", False, "ann@x"), ("1", "0", "2", True, "7")]
    assert [row.shown_first for row in found.comparisons] == ["chosen", "rejected", "chosen"]
    assert {row.labeled_at for row in found.comparisons} == {"2026-01-02T00:00:00Z"}
    assert found.left_out == {SKIPPED: 1, NOT_LABELED: 1} and found.rows == 5
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    assert read(tmp_path / "lines.jsonl").comparisons == found.comparisons


ARENA = {"prompt": "x", "model_a": "gpt", "model_b": "llama", "response_a": "one", "response_b": "two", "score1": 0.5, "score2": 1}
"""Two pairs of columns that could be texts, as in the data of chatbot arenas. Numbers could not."""


def test_a_choice_may_name_any_of_the_columns_of_its_side(tmp_path):
    """Ids say which two texts are meant, so further columns do no harm."""
    path, data = tmp_path / "export.json", ARENA | {"ids": [id_of(0, 0), id_of(0, 1)]}
    path.write_text(json.dumps([{"data": data, "annotations": [annotation("left", result=[{"value": {"choices": ["response_b"]}}])]}]))
    assert [row.chosen_id for row in read(path).comparisons] == [id_of(0, 1)]


@pytest.mark.parametrize(
    ("data", "results", "why"),
    [
        ({"ids": ["a", "b"]}, [{"value": {"selected": "middle"}}], "the choice is"),
        ({"ids": ["a", "b"]}, [], "it holds no choice"),
        ({"ids": ["a", "b"]}, None, "it holds no choice"),
        ({"ids": ["a", "b"]}, [{"value": {"selected": "left"}}, {"value": {"selected": "right"}}], "the choice is"),
        ({"prompt": "x", "text1": "a"}, [{"value": {"selected": "left"}}], "which two completions"),
        ({"ids": [1, 2]}, [{"value": {"selected": "left"}}], "chosen_id must be a string"),
        (ARENA, [{"value": {"selected": "left"}}], "model_a and model_b could be the two texts, and so could response_a and response_b"),
    ],
)
def test_an_annotation_that_is_not_clear_is_refused_with_its_row(tmp_path, data, results, why):
    path = tmp_path / "export.json"
    path.write_text(json.dumps([{"data": data, "annotations": [annotation("left", result=results)]}]))
    with pytest.raises(UserError, match=f"row 1 cannot be used: .*{why}"):
        read(path)


FLAT = {"annotation_id": 5, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-02T00:00:00Z", "lead_time": 3.5}
"""What Label Studio adds to each annotation in JSON_MIN and CSV."""


def flat_rows():
    """Three annotations as JSON_MIN has them: a Pairwise tag is a list, a single choice of a Choices tag is its text."""
    by_ids = {"prompt": "prompt 0", "ids": [id_of(0, 0), id_of(0, 1)], "group": "b"}
    by_texts = {"prompt": "prompt 1", "text1": "answer 1 0", "text2": "answer 1 2", "round": 1}
    return [
        by_ids | {"id": 1, "pw": [{"selected": "right"}], "annotator": 3} | FLAT,
        by_ids | {"id": 1, "pw": [{"selected": "left"}], "annotator": {"id": 8, "email": "ann@x"}} | FLAT,
        by_texts | {"id": 2, "better": "tie", "annotator": 7} | FLAT,
    ]


def test_label_studios_short_exports(tmp_path):
    path = tmp_path / "export.json"
    path.write_text(json.dumps(flat_rows()))
    found = read(path)
    assert said(found) == [("0", "1", "0", False, "3"), ("0", "0", "1", False, "ann@x"), ("1", "0", "2", True, "7")]
    assert [row.shown_first for row in found.comparisons] == ["rejected", "chosen", "chosen"]
    assert {row.labeled_at for row in found.comparisons} == {"2026-01-02T00:00:00Z"}
    rows = [
        row | {"annotator": row["annotator"]["email"] if isinstance(row["annotator"], dict) else row["annotator"]} for row in flat_rows()
    ]
    cells = [{name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()} for row in rows]
    with (tmp_path / "export.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in cells for name in row)))
        writer.writeheader()
        writer.writerows(cells)
    assert read(tmp_path / "export.csv").comparisons == found.comparisons


@pytest.mark.parametrize(
    ("change", "why"),
    [({"pw": []}, "it holds no choice"), ({"pw": [{"selected": "middle"}]}, "the choice is"), ({"ids": None}, "which two completions")],
)
def test_a_row_of_a_short_export_that_is_not_clear_is_refused(tmp_path, change, why):
    """A column of the data with the text "b" is no choice."""
    path = tmp_path / "export.json"
    path.write_text(json.dumps([flat_rows()[0] | change]))
    with pytest.raises(UserError, match=f"row 1 cannot be used: .*{why}"):
        read(path)


# -- Argilla --------------------------------------------------------------------------------------------------------------


def record(fields, responses, **metadata):
    return {
        "id": "r", "fields": fields, "metadata": metadata, "suggestions": {}, "responses": responses, "vectors": {}, "_server_id": "s",
    }  # fmt: skip


def test_argilla(tmp_path):
    texts = {"prompt": "prompt 0", "response1": "answer 1 0", "response2": "answer 1 1"}
    label = {"preference": [{"value": "response2", "user_id": "u1"}, {"value": "tie", "user_id": "u2"}]}
    ranked = {"ranking": [{"value": [{"value": "response1", "rank": 2}, {"value": "response2", "rank": 1}], "user_id": "u3"}]}
    equal = {"ranking": [{"value": [{"value": "response1", "rank": 1}, {"value": "response2", "rank": 1}], "user_id": "u1"}]}
    in_order = {"ranking": [{"value": ["response1", "response2"], "user_id": "u1"}], "stars": [{"value": 4, "user_id": "u1"}]}
    ids = {"first_id": id_of(2, 1), "second_id": id_of(2, 2)}
    records = [
        record(texts, label, round=1),
        record(texts, ranked, round=1),
        record({"prompt": "prompt 1", "response1": "answer 1 0", "response2": "answer 1 1"}, equal, round=1),
        record({"prompt": "shown", "response1": "x", "response2": "y"}, in_order, **ids),
        record(texts, {}, round=1),
    ]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(records))
    found = read(path)
    assert said(found) == [
        ("0", "1", "0", False, "u1"),
        ("0", "0", "1", True, "u2"),
        ("0", "1", "0", False, "u3"),
        ("1", "0", "1", True, "u1"),
        ("2", "1", "2", False, "u1"),
    ]
    assert found.left_out == {NOT_LABELED: 1} and found.rows == 6 and found.metrics["raters"] == 3
    rows, count = read(path, raters="majority").comparisons, found.metrics["votes"]
    assert [row.rater for row in rows] == ["u1, u2, u3", "u1", "u1"] and count == 5


# -- once, late, in parts -------------------------------------------------------------------------------------------------


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def by_ids(p, a, b, round_number=ROUND, **more):
    return {"chosen_id": id_of(p, a, round_number), "rejected_id": id_of(p, b, round_number)} | more


def test_parts_and_order_change_nothing(tmp_path):
    rows = [by_ids(0, 1, 2, rater="a"), by_ids(0, 2, 1, rater="b"), by_ids(2, 0, 1), by_ids(1, 2, 0, tie=True)]
    (tmp_path / "one.jsonl").write_text(lines(*rows))
    one = read(tmp_path / "one.jsonl")
    (tmp_path / "part-1.jsonl").write_text(lines(rows[3], rows[1], by_ids(1, 0, 2, tie=True)))
    (tmp_path / "part-2.jsonl").write_text(lines(rows[2], rows[0], rows[1]))
    parts = read(tmp_path / "part-*.jsonl")
    assert parts.comparisons == one.comparisons and parts.left_out == {SAID_BEFORE: 2} and parts.rows == 6
    (tmp_path / "part-2.jsonl").write_text(lines({"tie": 3}))
    with pytest.raises(UserError, match="part-2.jsonl, line 1 cannot be used"):
        read(tmp_path / "part-*.jsonl")


def test_a_later_verdict_of_one_rater_replaces_the_earlier_one_in_any_order(tmp_path):
    old, new = by_ids(0, 1, 2, labeled_at="2026-01-01"), by_ids(0, 2, 1, labeled_at="2026-01-02")
    for rows in ([old, new], [new, old], [new, old, new]):
        (tmp_path / "l.jsonl").write_text(lines(*rows))
        found = read(tmp_path / "l.jsonl")
        assert said(found) == [("0", "2", "1", False, "")] and found.left_out[REPLACED] == 1 and found.rows == len(rows)


def test_contradictions_without_times_are_skipped_on_both_sides(tmp_path):
    """In any order: neither row can be the right one."""
    rows = [by_ids(0, 1, 2), by_ids(0, 2, 1), by_ids(1, 0, 1)]
    for order in (rows, rows[::-1]):
        (tmp_path / "l.jsonl").write_text(lines(*order))
        found = read(tmp_path / "l.jsonl", bad_rows="skip")
        assert said(found) == [("1", "0", "1", False, "")] and found.left_out == {CANNOT_BE_USED: 2}


def test_the_run_says_what_it_has_what_it_wants_and_what_does_not_fit(tmp_path):
    (tmp_path / "l.jsonl").write_text(lines(by_ids(0, 1, 2), by_ids(0, 2, 1, rater="b"), by_ids(1, 0, 1, 0), {"chosen": 1}))
    with pytest.raises(WaitingForLabels, match="it has 1 of 2 comparisons for this round") as caught:
        read(tmp_path / "l.jsonl", min_labels=2, bad_rows="skip")
    assert "1 x about another round; 1 x cannot be used" in str(caught.value) and "line 4: rejected is missing" in str(caught.value)
    found = read(tmp_path / "l.jsonl", bad_rows="skip")
    assert [found.metrics[name] for name in ("labels_read", "votes", "labels_wanted", "contradictions")] == [4, 2, 1, 1]


def test_a_file_that_matches_nothing_names_its_rows(tmp_path):
    (tmp_path / "l.jsonl").write_text(lines(by_ids(0, 1, 2, 7), by_ids(0, 1, 2, 0)))
    with pytest.raises(WaitingForLabels) as caught:
        read(tmp_path / "l.jsonl")
    assert f"2 x {ANOTHER_ROUND}" in str(caught.value) and f"line 1: {ANOTHER_ROUND}" in str(caught.value)


def test_labels_that_came_too_late_for_their_round_are_used_once(tmp_path):
    used = Comparison(
        content_id(PROMPTS[0]), PROMPTS[0], "answer 0 1", "answer 0 2", chosen_id=id_of(0, 1, 0), rejected_id=id_of(0, 2, 0), rater="a, b"
    )
    earlier = [Earlier(0, samples(0), [used])]
    rows = [by_ids(0, 1, 2), by_ids(0, 1, 2, 0, rater="a"), by_ids(0, 1, 2, 0, rater="c"), by_ids(2, 1, 0, 0), by_ids(2, 1, 0, 5)]
    rows.append({"prompt": "prompt 1", "chosen": "answer 0 2", "rejected": "answer 0 0", "round": 0})
    (tmp_path / "l.jsonl").write_text(lines(*rows))
    found = read(tmp_path / "l.jsonl", earlier, late="use")
    assert [(row.chosen_id, row.generation) for row in found.comparisons] == [
        (id_of(0, 1, 0), 0), (id_of(1, 2, 0), 0), (id_of(2, 1, 0), 0), (id_of(0, 1), 1),
    ]  # fmt: skip
    assert found.left_out == {USED_EARLIER: 1, ANOTHER_ROUND: 1} and found.metrics["late"] == 3
    left = read(tmp_path / "l.jsonl", earlier)
    assert len(left.comparisons) == 1 and left.left_out == {ANOTHER_ROUND: 5}
    (tmp_path / "l.jsonl").write_text(lines(*rows[1:]))
    with pytest.raises(WaitingForLabels, match="no comparison for this round"):
        read(tmp_path / "l.jsonl", earlier, late="use")


def test_a_late_label_is_used_in_one_round_only(tmp_path):
    """It is about round 0, and comes while round 1 is labeled. Round 2 reads the same file. Names of raters may have commas."""
    path, late = tmp_path / "l.jsonl", by_ids(0, 1, 2, 0, rater="Doe, Jane")
    texts = {"prompt": "p", "chosen": "a", "rejected": "b", "round": 0}
    path.write_text(lines(late, texts, *(by_ids(0, 1, 2, number) for number in (1, 2))))

    def read_in(number, *earlier):
        task = file_task(
            samples(number), path, number, {"earlier": [Earlier(n, samples(n), rows) for n, rows in enumerate(earlier)]}, late="use"
        )
        return compare_by_file(task)

    first = read_in(1, [])
    assert [(row.rater, row.generation) for row in first.comparisons] == [("Doe, Jane", 0), ("", 0), ("", 1)]
    second = read_in(2, [], first.comparisons)
    assert [row.generation for row in second.comparisons] == [2] and second.left_out == {USED_EARLIER: 3}
