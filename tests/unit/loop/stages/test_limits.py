"""Rows that are too long, or that the tokenizer refuses: left out once, counted, and seen by no later stage."""

import json

import pytest

from configs import UserError
from configs.schema import RunConfig
from loop.round import STAGES, run_rounds
from loop.stages import STAGES as FUNCTIONS
from loop.stages.setup import END_OF_PART, LEDGER, PAIR_FILES, PROMPT_FILES
from policies.tokenization import encode_completion, encode_prompt
from rewards.comparisons import Comparison, PromptRecord, Sample, read_jsonl, write_jsonl
from rewards.curation.ledger import Ledger, remove
from rewards.data import lengths
from rewards.data.lengths import LONG_COMPLETION, LONG_PROMPT, TokenLimits
from rewards.data.row_files import RowFile, StoredRows
from rewards.data.splits import Split
from tests.unit.loop.stages.contexts import SETTINGS, context


def limits(backbone):
    """Limits that the texts below just meet: the prompt "12", and "ab" with the end token."""
    tokenizer = backbone.tokenizer
    prompt, completion = len(encode_prompt(tokenizer, "12")), len(encode_completion(tokenizer, "ab"))
    assert (prompt, completion) == (2, 3)  # one token a letter, and the end
    return {
        "data": {"source": "pairs.jsonl", "max_prompt_tokens": prompt, "max_completion_tokens": completion},
        "generation": {"max_new_tokens": 3},
    }


PAIRS = [
    Comparison("p1", "12", "ab", "a", source="mail"),
    Comparison("p1", "12", "abc", "a", chosen_finished=False, source="mail"),  # three tokens and no end: as long as "ab" with its end
    Comparison("p1", "12", "abc", "a", source="mail"),
    Comparison("p1", "12", "a", "abc", source="mail"),
    Comparison("p2", "123", "a", "b", source="mail"),
]


def write_pairs(folder, pairs):
    """The same pairs in each part, and a ledger that has them all, with one row that could not be read."""
    ledger = Ledger()
    ledger.add("mail", remove("chosen is empty"))
    for name in PAIR_FILES:
        write_jsonl(folder / f"{name}.jsonl", pairs)
        ledger.add("mail", END_OF_PART[name], len(pairs))
    (folder / LEDGER).write_text(json.dumps(ledger.as_json()))


@pytest.fixture
def original(tmp_path):
    folder = tmp_path / "original"
    folder.mkdir()
    write_pairs(folder, PAIRS)
    for name in PROMPT_FILES:
        write_jsonl(folder / f"{name}.jsonl", [PromptRecord("p1", "12"), PromptRecord("p2", "123")])
    return folder


def test_rows_too_long_are_left_out_once_and_counted(backbone, original, tmp_path):
    """Of each file's five pairs two have a long completion and one a long prompt; three files of pairs."""
    metrics = FUNCTIONS["filter"](
        context("filter", {"data": original, "base": tmp_path}, backbone, tmp_path / "filter", **limits(backbone)),
    )
    for name in PAIR_FILES:
        assert read_jsonl(tmp_path / "filter" / f"{name}.jsonl", Comparison) == PAIRS[:2] and metrics[name] == 2
    for name in PROMPT_FILES:
        assert read_jsonl(tmp_path / "filter" / f"{name}.jsonl", PromptRecord) == [PromptRecord("p1", "12")] and metrics[name] == 1
    assert metrics["left_out"] == {"completion too long": 6, "prompt too long": 3}


def test_the_ledger_says_what_became_of_rows_too_long(backbone, original, tmp_path):
    """Of the five rows of each part, two stay, one has a long prompt, and two a long completion. The prompt of these two is still asked,
    but not that of the labeler's rows."""
    metrics = FUNCTIONS["filter"](
        context("filter", {"data": original, "base": tmp_path}, backbone, tmp_path / "filter", **limits(backbone)),
    )
    removed = {"chosen is empty": 1, "prompt too long": 3, "completion too long": 2}
    moved = {"held out": 2, "the labeler": 2, "prompts only": 4}
    assert metrics["ledger"] == {"mail": {"original": 16, "kept": 2, "removed": removed, "moved": moved, "generated": {}}}
    assert json.loads((tmp_path / "filter" / LEDGER).read_text()) == metrics["ledger"]


def test_many_rows_are_told_apart_as_one(backbone, tmp_path):
    """Of each three rows, the second has a long prompt and the third a long completion. Rows are encoded 256 at once, 600 in all."""
    texts = [("12", "ab"), ("123", "ab"), ("12", "abc")]
    rows = [Comparison(prompt, prompt, chosen, "a", source=f"{number}") for number in range(200) for prompt, chosen in texts]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    kept, told = RowFile(Comparison, tmp_path), []
    stored = StoredRows.of(tmp_path / "rows.jsonl", Comparison)
    left_out = TokenLimits(backbone.tokenizer, 2, 3).keep_into(kept, stored, lambda *row_and_reason: told.append(row_and_reason))
    assert list(kept) == rows[::3] and left_out == {LONG_PROMPT: 200, LONG_COMPLETION: 200}
    assert told[::2] == [(row, LONG_PROMPT) for row in rows[1::3]] and told[1::2] == [(row, LONG_COMPLETION) for row in rows[2::3]]


def test_a_prompt_is_measured_once(backbone, monkeypatch):
    """Four pairs have the prompt "12" and one has "123"; then the two prompts come by themselves, with a new one."""
    measured, measure = [], lengths.measure_prompts
    monkeypatch.setattr(
        lengths, "measure_prompts", lambda tokenizer, prompts, limit: measured.extend(prompts) or measure(tokenizer, prompts, limit)
    )
    limits = TokenLimits(backbone.tokenizer, 2, 3)
    assert limits.keep(PAIRS) == (PAIRS[:2], {LONG_COMPLETION: 2, LONG_PROMPT: 1})
    prompts = [PromptRecord("p1", "12"), PromptRecord("p2", "123"), PromptRecord("p3", "1")]
    assert limits.keep(prompts) == ([prompts[0], prompts[2]], {LONG_PROMPT: 1})
    assert measured == ["12", "123", "1"]


@pytest.mark.parametrize("name", [*PAIR_FILES, *PROMPT_FILES])
def test_where_nothing_is_short_enough_the_limit_is_named(backbone, original, tmp_path, name):
    rows = read_jsonl(original / f"{name}.jsonl", Comparison if name in PAIR_FILES else PromptRecord)
    write_jsonl(original / f"{name}.jsonl", rows[-1:])
    with pytest.raises(UserError) as error:
        FUNCTIONS["filter"](context("filter", {"data": original, "base": tmp_path}, backbone, tmp_path / "filter", **limits(backbone)))
    assert error.value.what.startswith("none of the 1 ") and "1 x prompt too long" in error.value.what
    assert "data.max_prompt_tokens=2" in error.value.where and error.value.to_do == "raise data.max_prompt_tokens"


def test_only_the_filter_and_the_base_see_what_is_too_long():
    """Everything else gets its rows from the filter."""
    received = {}

    class Recorder:
        config = RunConfig.model_validate(
            SETTINGS
            | {
                "labeler": {"kind": "reward-model", "pick": "closeness"},
                "data": {"source": "pairs.jsonl", "labeler_fraction": 0.5},
                "num_rounds": 2,
                "ppo": {"init": "selected"},
                "pmp": {"sources": [{"path": "votes.jsonl"}]},
            }
        )

        def stage(self, stage, round_number=None, **inputs):
            received.setdefault(stage.name, set()).update(value for value in inputs.values() if isinstance(value, str))
            return stage.name

    run_rounds(Recorder())
    assert received.keys() == {stage.name for stage in STAGES} - {"pivot"}
    assert {name for name, inputs in received.items() if "data" in inputs} == {"filter"}
    assert {name for name, inputs in received.items() if "filter" in inputs} == {
        *("sft", "pmp", "labeler", "baseline", "reward", "policy", "sample", "answer", "retrain", "refresh", "evaluate")
    }
    direct = {name for name, inputs in received.items() if "filter" in inputs}
    received.clear()
    Recorder.config = RunConfig.model_validate(Recorder.config.model_dump() | {"respond": "pivot", "pivot": {"translator": "http"}})
    run_rounds(Recorder())
    assert received.keys() == {stage.name for stage in STAGES}
    assert {name for name, inputs in received.items() if "filter" in inputs} == {"pivot"}
    assert {name for name, inputs in received.items() if "pivot" in inputs} == direct


def test_labels_with_texts_that_are_too_long_are_counted_and_samples_never_are(backbone, tmp_path):
    """The sampled completions have five tokens with their end, more than the limit of three."""
    samples = [Sample(f"0-0-p-{k}", "p", "12", f"abc{k}", True, 0, k) for k in range(2)]
    write_jsonl(tmp_path / "samples.jsonl", samples)
    rows = [
        {"chosen_id": samples[0].id, "rejected_id": samples[1].id},
        {"prompt": "12", "chosen": "ab", "rejected": "a", "round": 0},
        {"prompt": "12", "chosen": "abc", "rejected": "a", "round": 0},
        {"prompt": "123", "chosen": "ab", "rejected": "a", "round": 0},
    ]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = limits(backbone) | {"labeler": {"kind": "preferences-file", "path": str(tmp_path / "labels.jsonl")}}
    inputs = {"samples": tmp_path, "base": tmp_path}
    metrics = FUNCTIONS["label"](context("label", inputs, backbone, tmp_path / "label", round_number=0, **settings))
    assert [row.chosen for row in read_jsonl(tmp_path / "label" / "comparisons.jsonl", Comparison)] == ["abc0", "ab"]
    assert metrics["comparisons"] == 2 and metrics["left_out"] == {"completion too long": 1, "prompt too long": 1}

    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[2:]))
    with pytest.raises(UserError, match="none of the 2 comparisons is short enough: 1 x completion too long, 1 x prompt too long"):
        FUNCTIONS["label"](context("label", inputs, backbone, tmp_path / "label", round_number=0, **settings))


def test_labels_of_held_out_prompts_alone_are_refused(backbone, tmp_path):
    law = Split(seed=0, heldout_fraction=0.5)
    heldout, training = (next(f"question {i}" for i in range(100) if law.holds_out(f"question {i}") == side) for side in (True, False))
    samples = [Sample(f"0-0-{p}-{k}", p, p, f"{k}", True, 0, k) for p in (heldout, training) for k in range(2)]
    write_jsonl(tmp_path / "samples.jsonl", samples)
    rows = [{"chosen_id": f"0-0-{p}-0", "rejected_id": f"0-0-{p}-1"} for p in (heldout, training)]
    settings = {
        "data": {"source": "pairs.jsonl", "heldout_fraction": 0.5},
        "labeler": {"kind": "preferences-file", "path": str(tmp_path / "labels.jsonl")},
    }
    asking = context("label", {"samples": tmp_path, "base": tmp_path}, backbone, tmp_path / "label", round_number=0, **settings)
    (tmp_path / "labels.jsonl").write_text(json.dumps(rows[0]))
    with pytest.raises(UserError, match="all 1 comparisons are of held-out prompts"):
        FUNCTIONS["label"](asking)
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert FUNCTIONS["label"](asking)["heldout"] == 1


def test_completions_may_not_be_sampled_longer_than_the_limit():
    with pytest.raises(
        ValueError, match="generation.max_new_tokens is 65, but data.max_completion_tokens allows completions of only 64 tokens"
    ):
        RunConfig.model_validate({"generation": {"max_new_tokens": 65}})


def test_a_prompt_of_which_the_tokenizer_keeps_nothing_is_left_out(backbone, original, tmp_path):
    """An empty prompt has no last token from which an answer could be predicted."""
    write_pairs(original, [*PAIRS, Comparison("p3", "", "a", "b", source="mail")])
    inputs = {"data": original, "base": tmp_path}
    metrics = FUNCTIONS["filter"](context("filter", inputs, backbone, tmp_path / "filter", **limits(backbone)))
    assert metrics["left_out"]["prompt without tokens"] == len(PAIR_FILES) and metrics["pairs"] == 2


def test_a_prompt_that_the_chat_template_refuses_is_left_out(backbone, original, tmp_path):
    """As Gemma's and Mistral's templates refuse a system turn."""
    backbone.tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + backbone.tokenizer.chat_template
    )
    system = [{"role": "system", "content": "1"}, {"role": "user", "content": "1"}]
    write_pairs(original, [*PAIRS, Comparison("p3", system, "a", "b", source="mail")])
    inputs = {"data": original, "base": tmp_path}
    metrics = FUNCTIONS["filter"](context("filter", inputs, backbone, tmp_path / "filter", **limits(backbone)))
    reason = "prompt refused by the chat template (System role not supported)"
    assert metrics["left_out"][reason] == len(PAIR_FILES) and metrics["pairs"] == 2


def test_limits_beyond_the_models_positions_are_refused(backbone, original, tmp_path):
    """The tiny backbone has 256 positions; 250 + 7 is one too many."""
    settings = {
        "data": {"source": "pairs.jsonl", "max_prompt_tokens": 250, "max_completion_tokens": 7},
        "generation": {"max_new_tokens": 7},
    }
    with pytest.raises(UserError, match="tiny reads at most 256 tokens, and a prompt with its completion may have 257"):
        FUNCTIONS["filter"](context("filter", {"data": original, "base": tmp_path}, backbone, tmp_path / "filter", **settings))
