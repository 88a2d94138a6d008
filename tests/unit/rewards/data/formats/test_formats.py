"""The forms of rows: what becomes of a row of each form, and why a row is left out."""

import pytest

from configs import UserError
from rewards.comparisons import Demonstration, PromptRecord
from rewards.data.formats import answers
from rewards.data.splits import content_id
from tests.unit.rewards.data.sources import ROWS, lines, read


@pytest.fixture
def one(tmp_path):
    """Writes rows into a file, and reads them."""

    def write_and_read(*rows, **settings):
        (tmp_path / "rows.jsonl").write_bytes(lines(rows))
        return read(tmp_path / "rows.jsonl", **settings)

    return write_and_read


def said(row):
    """The pairs of a row, as (last words of the prompt, chosen, rejected, tie, rater)."""
    ends = [r.prompt if isinstance(r.prompt, str) else r.prompt[-1]["content"] for r in row.records]
    return [(end, r.chosen, r.rejected, r.tie, r.rater) for end, r in zip(ends, row.records, strict=True)]


def test_raters_are_kept_apart_and_a_tie_is_a_tie(one):
    row = {"instruction": "Say it", "input": "more", "response1": "a", "response2": "b", "annotator1": 1, "annotator2": 2, "annotator3": 0}
    (found,) = one(row)
    prompt = "Say it\n\nmore"
    assert said(found) == [
        (prompt, "a", "b", False, "annotator1"),
        (prompt, "b", "a", False, "annotator2"),
        (prompt, "a", "b", True, "annotator3"),
    ]
    (found,) = one({"input": "Say it", "output_1": "a", "output_2": "b", "label": "2"})
    assert said(found) == [("Say it", "b", "a", False, "")]


def test_a_bad_answer_of_unpaired_preferences_is_no_example():
    """TRL's unpaired preferences say of each answer whether it is good."""
    row = {"prompt": "q", "completion": "a"}
    assert [next(answers.parse(row | more)).answer for more in ({}, {"label": True}, {"label": False})] == ["a", "a", None]


def test_a_verdict_that_is_none_is_left_out_by_itself(one):
    row = {"input": "q", "response1": "a", "response2": "b", "annotator1": 3, "annotator2": True, "annotator3": 1}
    (found,) = one(row)
    assert found.left_out == ("annotator1 is not 0, 1 or 2", "annotator2 is not 0, 1 or 2") and len(found.records) == 1
    (lost,) = one(row | {"annotator3": None})
    assert lost.reason == "annotator1 is not 0, 1 or 2"


def message(text, role, rank=None, *replies, **more):
    return {"text": text, "role": role, "rank": rank, "replies": list(replies)} | more


def test_each_two_ranked_answers_of_a_tree_are_compared(one):
    """Three ranked answers give 3 pairs. The third has a follow-up with two answers of one rank, of which a third one was deleted."""
    follow_up = message(
        "why", "prompter", None, message("x", "assistant", 0), message("y", "assistant", 0), message("z", "assistant", 1, deleted=True)
    )
    answers = [message("worst", "assistant", 2, follow_up), message("best", "assistant", 0), message("middle", "assistant", 1)]
    (found,) = one({"message_tree_id": "1", "prompt": message("q", "prompter", None, *answers)})
    assert said(found) == [
        ("q", "best", "middle", False, ""),
        ("q", "best", "worst", False, ""),
        ("q", "middle", "worst", False, ""),
        ("why", "x", "y", True, ""),
    ]
    assert found.left_out == ("an answer was deleted",)
    assert found.records[3].prompt == [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "worst"},
        {"role": "user", "content": "why"},
    ]
    (lost,) = one({"prompt": message("q", "prompter", None, message("only one", "assistant", 0))})
    assert lost.reason == "there is nothing to compare in it"


def answer(id, score, text):
    return {"id": id, "score": score, "body_html": f"<p>{text}</p>", "date": "2020"}


def test_votes_are_compared_by_their_logarithm(one):
    """round(log2(1 + votes)): 7 gives 3, 6 gives 3 (2.81), 1 gives 1; -2 gives -1; the accepted one of 1 vote gives 2."""
    answers = [answer(1, 7, "seven"), answer(2, 6, "six"), answer(3, 1, "accepted"), answer(4, -2, "negative")]
    (found,) = one({"title": "T", "body_html": "<p>B</p>", "accepted": 3, "answers": answers})
    assert [(pair.chosen, pair.rejected) for pair in found.records] == [
        ("seven", "accepted"),
        ("seven", "negative"),
        ("six", "accepted"),
        ("six", "negative"),
        ("accepted", "negative"),
    ]
    assert {pair.prompt for pair in found.records} == {"T\n\nB"}
    reasons = [row.reason for row in one(*({"title": "T", "answers": given} for given in ([answers[0]], answers[:2])))]
    assert reasons == ["a question with fewer than two answers", "the answers to a question have equal votes"]


def test_a_tree_may_have_votes_and_no_roles(one):
    """As on Reddit: the first message asks, and turns alternate. Of the votes 7, 6 and -2 the worths are 3, 3 and -1, so two of three pairs
    have a better answer. Replies to an answer come from those who ask, and are not compared; replies to one of them are."""

    def reply(text, score, *replies):
        return {"text": text, "score": score, "replies": list(replies)}

    thanks = reply("thanks", 5, reply("welcome", 3), reply("whatever", 0))
    answers = [reply("bad", -2), reply("seven", 7, thanks, reply("no", 1)), reply("six", 6)]
    (found,) = one({"prompt": {"text": "q", "replies": answers}})
    assert [(pair.chosen, pair.rejected, pair.tie) for pair in found.records] == [
        ("seven", "bad", False),
        ("six", "bad", False),
        ("welcome", "whatever", False),
    ]
    assert [turn["role"] for turn in found.records[2].prompt] == ["user", "assistant", "user"]
    (found,) = one({"prompt": {"text": "q", "replies": [reply("a", True), reply("b", 1), reply("c", 0)]}})
    assert found.left_out == ("an answer has no rank and no score",) and said(found) == [("q", "b", "c", False, "")]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"question": "2 + 2?", "answer": "#### 4"}, "2 + 2?"),
        ({"intent": "sort it", "rewritten_intent": "sort `x`", "snippet": "x.sort()"}, "sort `x`"),
        ({"intent": "sort it", "rewritten_intent": None, "snippet": "x.sort()"}, "sort it"),
        ({"instruction": "Translate", "input": "mango", "output": "มะม่วง"}, "Translate\n\nmango"),
        ({"instruction": "Say", "context": "", "response": "it"}, "Say"),
        ({"prompt": "q", "completion": "a"}, "q"),
        ({"prompt": "q"}, "q"),
        ({"prompt": [{"role": "user", "content": "q"}]}, [{"role": "user", "content": "q"}]),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, [{"role": "user", "content": "q"}]),
        (
            {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
        ),
    ],
)
def test_what_has_no_two_answers_is_a_prompt(one, row, prompt):
    (found,) = one(row)
    assert found.records == (PromptRecord(content_id(prompt), prompt, "rows"),)
    if "conversations" in row:  # which may hold pairs too, so each row is judged
        assert one(row, kind="pairs")[0].reason == "it has no two answers to compare"
    else:
        with pytest.raises(UserError, match="no two answers to compare"):
            one(row, kind="pairs")


def test_a_single_answer_is_kept_where_it_is_asked_for(one):
    asked, said = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    for row, prompt in (
        ({"question": "q", "answer": "a"}, "q"),
        ({"prompt": "q", "completion": [said]}, "q"),
        ({"messages": [asked, said]}, [asked]),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, [asked]),
    ):
        (found,) = one(row, kind="answers")
        assert found.records == (Demonstration(content_id(prompt), prompt, "a", "rows"),)
    rows = one({"question": "q", "answer": " "}, {"question": "q", "answer": 7}, {"question": "", "answer": "a"}, kind="answers")
    assert [row.reason for row in rows] == ["the answer is empty", "it has no answer", "the prompt is empty"]
    assert one({"messages": [asked]}, kind="answers")[0].reason == "it has no answer"
    for row in (ROWS[0], {"prompt": "q"}):
        with pytest.raises(UserError, match="rows has no single answers"):
            one(row, kind="answers")


def test_turns_of_tools_and_parts_of_text_are_kept(one):
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    prompt = [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": [{"type": "text", "text": "How is "}, {"type": "text", "text": "Bangkok?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "weather", "tool_call_id": "1", "content": "hot", "other": 3},
    ]
    (found,) = one(
        {"prompt": prompt, "chosen": "Hot.", "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "Cold."}]}]}
    )
    assert found.records[0].prompt == [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": "How is Bangkok?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "hot", "name": "weather", "tool_call_id": "1"},
    ]
    assert (found.records[0].chosen, found.records[0].rejected) == ("Hot.", "Cold.")
    (lost,) = one({"prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "chosen": "a", "rejected": "b"})
    assert lost.reason == "a message has a part that is no text (image_url)"


def test_pairs_in_the_form_of_sharegpt(one):
    asked = [{"from": "human", "value": "q"}]
    (found,) = one({"conversations": asked, "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}})
    assert said(found) == [("q", "a", "b", False, "")]
    answers = {"chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}
    (found, lost) = one({"conversations": asked, "tie": True, "rater": "ann"} | answers, {"conversations": asked, "tie": "yes"} | answers)
    assert said(found) == [("q", "a", "b", True, "ann")] and lost.reason == "tie is not true or false"
    rows = one({"conversations": [{"from": "function_call", "value": "{}"}]}, {"conversations": [{"from": "cat", "value": "q"}]})
    assert [row.reason for row in rows] == [
        "a turn calls a function in ShareGPT's form",
        "a turn's from is no role of ShareGPT's form",
    ]


def test_the_format_can_be_given_and_columns_renamed(one):
    (found,) = one({"question": "q", "answers": [1], "title": "t"}, columns={"prompt": "question"})
    assert found.records[0].prompt == "q"
    with pytest.raises(UserError, match="no row has the columns of the format rated"):
        one(ROWS[0], format="rated")
    (found,) = one(ROWS[0], kind="prompts")
    assert found.records == (PromptRecord(content_id("question 0"), "question 0", "rows"),)


def test_renamed_columns_of_csv_are_read_as_what_they_are(tmp_path):
    """The first pair is a tie, by the column that says so."""
    (tmp_path / "rows.csv").write_text("question,good,bad,equal\nq,a,b,true\nq,a,b,false\n")
    rows = read(tmp_path / "rows.csv", columns={"prompt": "question", "chosen": "good", "rejected": "bad", "tie": "equal"})
    assert [said(row) for row in rows] == [[("q", "a", "b", True, "")], [("q", "a", "b", False, "")]]


def test_the_row_numbers_of_a_table_are_no_part_of_a_question(tmp_path):
    """pandas writes them into a first column without a name."""
    (tmp_path / "rows.csv").write_text(",question,answer\n0,1+1,2\n1,2+2,4\n")
    found = [(record.prompt, record.answer) for row in read(tmp_path / "rows.csv", kind="answers") for record in row.records]
    assert found == [("1+1", "2"), ("2+2", "4")]


def test_a_row_names_its_rater(one):
    rows = one(ROWS[0] | {"rater": "ann", "tie": True}, ROWS[0] | {"rater": 7}, ROWS[0] | {"rater": None})
    assert [(row.records[0].rater, row.records[0].tie) for row in rows] == [("ann", True), ("7", False), ("", False)]


def test_a_row_names_its_part_of_the_source(one):
    rows = one(ROWS[0] | {"source": "mail"}, ROWS[1], ROWS[2] | {"source": "notes"}, name="notes")
    assert [row.records[0].source for row in rows] == ["notes/mail", "notes", "notes"]
