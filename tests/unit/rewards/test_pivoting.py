"""Which prompts are answered by way of another language, what the policy reads of them, and what people see."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from configs.pivot import PivotConfig
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from rewards.comparisons import Comparison, Demonstration, PromptRecord, Sample, from_line, to_line, turned, write_jsonl
from rewards.data.splits import Split, content_id
from rewards.labelers.pairs import compare
from rewards.pivoting import NO_TRANSLATION, Pivoting, answers_in_pivot, pairs_in_pivot, texts_of
from rewards.rules.reply import Reply
from rewards.shown import OWN_TEXTS, as_shown, in_pivot, measure

COLOUR = [{"role": "user", "content": "มะม่วงมีสีอะไร"}]
ENGLISH = [{"role": "user", "content": "What colour is a mango?"}]


def pivoting(**settings):
    return Pivoting(PivotConfig(**settings), Checkpoints(), report_nothing)


def record(prompt, source="synth_qa"):
    return PromptRecord(content_id(prompt), prompt, source)


def a_sample(asked, completion, k=0):
    return Sample(f"0-0-{asked.prompt_id}-{k}", asked.prompt_id, asked.prompt, completion, True, 0, k, asked.source, pivot=asked.pivot)


def shown_samples(*completions, **settings):
    (asked,) = pivoting(**settings).ask([record(COLOUR)])
    return pivoting(**settings).show([a_sample(asked, text, k) for k, text in enumerate(completions)], "x")


def test_the_policy_reads_the_pivot_language_and_people_see_their_own():
    asked, direct = pivoting().ask([record(COLOUR), record(ENGLISH)])
    assert asked.prompt == ENGLISH and asked.prompt_id == content_id(COLOUR) and direct == record(ENGLISH)
    assert asked.pivot == {"from": "th", "to": "en", "prompt": COLOUR, "prompt_by": "dictionary"}
    sample, beside = pivoting().show([a_sample(asked, "A mango is yellow."), a_sample(direct, "It is.")], "x")
    assert sample.completion == "A mango is yellow." and sample.pivot["completion_by"] == "dictionary"
    seen = as_shown(sample)
    assert (seen.prompt, seen.completion, seen.id) == (COLOUR, "มะม่วงมีสีเหลืองค่ะ", sample.id)
    assert as_shown(beside) == beside and beside.pivot is None


def test_an_answer_in_the_users_language_is_shown_as_it_is_and_counted_as_wrong():
    """Of two answers by way of English, one is in Thai. The third one is direct."""
    samples = shown_samples("A mango is yellow.", "มะม่วงมีสีเหลืองค่ะ")
    assert as_shown(samples[1]).completion == samples[1].completion and samples[1].pivot["completion_by"] == ""
    direct = a_sample(record(ENGLISH), "มะม่วงมีสีเหลืองค่ะ")
    assert measure([*samples, direct]) == {"share": 2 / 3, "wrong_language": 0.5, "shown_as_it_is": 0.5}
    assert measure([direct]) == {}


def test_a_kept_prompt_is_read_in_thai_and_english_is_what_is_meant():
    (asked,) = pivoting(prompt="keep").ask([record(COLOUR)])
    assert asked.prompt == COLOUR and asked.pivot["prompt_by"] == ""
    expected = pivoting(prompt="keep").expected_language("same")
    assert expected(Reply(COLOUR, "")) == "en" and expected(Reply(ENGLISH, "")) == "same"
    assert pivoting().expected_language("same") == "same" and pivoting(prompt="keep").expected_language("any") == "any"


@pytest.mark.parametrize(
    ("settings", "inside"),
    [
        ({}, [True, True, False]),
        ({"scope": "all"}, [True, True, True]),
        ({"scope": "rule", "sources": ["helpful"]}, [False, True, False]),
        ({"scope": "rule", "pattern": "สี|colour"}, [True, False, False]),  # a rule is for prompts in the users' language
        ({"scope": "rule", "pattern": "สี", "sources": ["helpful"]}, [True, True, False]),
    ],
)
def test_the_scope(settings, inside):
    asked = [(COLOUR, "synth_qa"), ([{"role": "user", "content": "ไปน่านกินอะไรดี"}], "helpful"), (ENGLISH, "helpful")]
    assert [pivoting(**settings).covers(*one) for one in asked] == inside


def test_a_classifier_of_the_users_decides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def hotels(prompt, source): return source == 'helpful'\n")
    found = pivoting(scope="mine.py:hotels")
    assert found.covers(ENGLISH, "helpful") and not found.covers(COLOUR, "synth_qa")


def test_the_turns_of_a_dialogue_are_translated_each_and_marks_stay():
    asked = pivoting().ask(
        [
            record([*COLOUR, {"role": "assistant", "content": "มะม่วงมีสีเหลืองค่ะ"}, {"role": "user", "content": "แล้วแมวล่ะ"}]),
            record("\n\nHuman: มะม่วงมีสีอะไร\n\nAssistant:"),
            record("มะม่วงมีสีอะไร"),
        ]
    )
    assert [m["content"] for m in asked[0].prompt] == ["What colour is a mango?", "A mango is yellow.", "And cat?"]
    assert asked[1].prompt == "\n\nHuman: What colour is a mango?\n\nAssistant:" and asked[2].prompt == "What colour is a mango?"


def test_what_cannot_be_translated_is_answered_directly_and_left_out_of_the_pairs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def some(texts, source, target): return [None if 'แมว' in t else 'words' for t in texts]\n")
    found = pivoting(translator="mine.py:some")
    cat = [{"role": "user", "content": "แมวกินอะไร"}]
    assert [row.pivot is not None for row in found.ask([record(COLOUR), record(cat)])] == [True, False]
    rows = [
        Comparison("p", COLOUR, "ใช่", "ไม่", chosen_finished=False),
        Comparison("p", COLOUR, "ใช่ แมว", "ไม่"),
        Comparison("p", cat, "ก", "ข"),
    ]
    rows += [Comparison("p", COLOUR, "ใช่", "ไม่"), Comparison("p", ENGLISH, "ใช่", "no")]
    kept, left_out = pairs_in_pivot(found, rows, found.translate(texts_of(found, rows), "x"))
    assert left_out == {NO_TRANSLATION: 2, "equal in the pivot language": 1}
    assert [(row.chosen, row.rejected) for row in kept] == [("words", "words"), ("ใช่", "no")]
    assert kept[0].pivot["chosen"] == "ใช่" and kept[1] == rows[-1]
    answers = [Demonstration("p", COLOUR, "ใช่"), Demonstration("p", COLOUR, "แมว"), Demonstration("p", ENGLISH, "yes")]
    kept, left_out = answers_in_pivot(found, answers, found.translate(texts_of(found, answers), "x"))
    assert [row.answer for row in kept] == ["words", "yes"] and left_out == {NO_TRANSLATION: 1}


def test_labels_of_shown_answers_become_comparisons_of_what_the_policy_wrote():
    first, second = shown_samples("A mango is yellow.", "A mango is red.")
    label = compare(as_shown(second), as_shown(first), Split(0, 0.5), "gold")
    own = replace(label, chosen="ของฉัน", chosen_id="")
    direct = Comparison("other", ENGLISH, "a", "b")
    (row, beside), left_out = in_pivot([label, own, direct], [first, second])
    assert (row.prompt, row.chosen, row.rejected) == (ENGLISH, "A mango is red.", "A mango is yellow.")
    assert as_shown(row) == replace(label, pivot=row.pivot) and row.heldout == label.heldout
    assert left_out == {OWN_TEXTS: 1} and beside == direct
    assert as_shown(turned(row)).chosen == label.rejected


def test_a_label_about_a_prompt_that_was_not_sampled_is_left_out_if_it_would_be_answered_in_the_pivot_language():
    """Beside the color, which was sampled and could not be translated, so it is answered directly."""
    (sample,) = [a_sample(record(COLOUR), "มะม่วงมีสีเหลืองค่ะ")]
    cat = [{"role": "user", "content": "แมวกินอะไร"}]
    rows = [Comparison(content_id(prompt), prompt, "ก", "ข") for prompt in (COLOUR, cat, ENGLISH)]
    assert in_pivot(rows, [sample], pivoting().covers) == ([rows[0], rows[2]], {OWN_TEXTS: 1})
    assert in_pivot(rows, [sample]) == (rows, {})


def test_an_empty_translation_counts_as_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def blank(texts, source, target): return ['', ' \\n', None, ' x ']\n")
    found = pivoting(translator="mine.py:blank").translate(["a", "b", "c", "d"], "x")
    assert found == {"a": None, "b": None, "c": None, "d": " x "}


def test_a_translation_that_no_file_could_hold_counts_as_none(tmp_path, monkeypatch):
    """JSON of an endpoint can carry half of a surrogate pair, for example of an emoji that was cut off."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def halves(texts, source, target): return ['well \\ud83d', 'well 🐘']\n")
    found = pivoting(translator="mine.py:halves").translate(["a", "b"], "x")
    assert found == {"a": None, "b": "well 🐘"}
    write_jsonl(tmp_path / "x.jsonl", [record(text) for text in found.values() if text])


def test_records_of_direct_answers_have_no_new_key():
    line = to_line(record(ENGLISH))
    assert "pivot" not in line and "pivot" not in to_line(Comparison("p", "q", "a", "b")) and from_line(line, PromptRecord).pivot is None
    (asked,) = pivoting().ask([record(COLOUR)])
    assert from_line(to_line(asked), PromptRecord) == asked


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"from_language": "en"}, "are both en"),
        ({"from_language": "fr"}, "written in the same letters"),
        ({"scope": "rule"}, "has no rule"),
        ({"sources": ["helpful"]}, "are for pivot.scope=rule"),
        ({"scope": "rule", "pattern": "("}, "is not a regular expression"),
    ],
)
def test_settings_that_cannot_be(settings, what):
    with pytest.raises(ValidationError, match=what):
        PivotConfig(**settings)


def test_two_languages_with_the_same_letters_are_told_by_the_scope_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def mark(texts, source, target): return [f'{t} ({target})' for t in texts]\n")
    found = pivoting(from_language="fr", scope="all", translator="mine.py:mark")
    (asked,) = found.ask([record("Bonjour")])
    (sample,) = found.show([a_sample(asked, "Good day")], "x")
    assert asked.prompt == "Bonjour (en)" and as_shown(sample).completion == "Good day (fr)"
