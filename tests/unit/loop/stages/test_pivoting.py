"""The stage that writes the data in the pivot language, and the stages that show answers to people."""

import json
from unittest.mock import Mock

import pytest

from configs.errors import UserError
from configs.views import UndeclaredSetting
from loop.round import LABEL, LABELER, PIVOT, SAMPLE, across_languages
from loop.stages import STAGES as FUNCTIONS
from loop.stages import setup
from rewards.comparisons import Comparison, PromptRecord, Sample, read_jsonl, write_jsonl
from rewards.data import embedded
from rewards.data.splits import opening
from rewards.shown import as_shown
from rewards.world.gold import gold_scores
from tests.unit.loop.stages.contexts import context

SETTINGS = {"data": {"source": "embedded", "num_pairs": 60}, "labeler": {"kind": "gold"}, "respond": "pivot"}
LIMITS = {"max_prompt_tokens": 500, "max_completion_tokens": 500}


@pytest.fixture
def world(tmp_path):
    """The embedded world's data as the stage `filter` leaves them, with a labeler's part."""
    from configs.data import DataConfig

    data = embedded.load(DataConfig(num_pairs=60, labeler_fraction=0.2), seed=0)
    folder = tmp_path / "filter"
    folder.mkdir()
    rows = {"pairs": data.pairs, "heldout_pairs": data.heldout, "prompts": data.prompts, "heldout_prompts": data.heldout_prompts}
    for name, found in (rows | {"labeler_pairs": data.labeler_pairs}).items():
        write_jsonl(folder / f"{name}.jsonl", found)
    return folder


def run(stage, inputs, backbone, output, **settings):
    given = SETTINGS | settings
    given["data"] = SETTINGS["data"] | LIMITS | settings.get("data", {})
    return FUNCTIONS[stage.name](context(stage, inputs, backbone, output, round_number=0, **given))


def test_the_data_are_written_in_the_language_that_the_policy_answers_in(world, backbone, tmp_path):
    metrics = run(PIVOT, {"data": world, "base": tmp_path}, backbone, tmp_path / "out")
    before, after = ({r.prompt_id: r for r in read_jsonl(at / "prompts.jsonl", PromptRecord)} for at in (world, tmp_path / "out"))
    thai = {id for id, record in before.items() if any("\u0e00" <= letter <= "\u0e7f" for letter in record.prompt[0]["content"])}
    for id, record in after.items():
        assert (record.pivot is not None) == (id in thai) and as_shown(record).prompt == before[id].prompt
        assert all(message["content"].isascii() for message in record.prompt)
    pairs = read_jsonl(tmp_path / "out" / "pairs.jsonl", Comparison)
    assert 0 < sum(row.pivot is not None for row in pairs) == metrics["pivoted"]["pairs"] < len(pairs) == metrics["pairs"]
    assert {row.prompt_id: as_shown(row).prompt for row in pairs}.items() <= {r.prompt_id: r.prompt for r in before.values()}.items()
    assert (tmp_path / "out" / "labeler_pairs.jsonl").read_bytes() == (world / "labeler_pairs.jsonl").read_bytes()
    assert metrics["translator"] == "dictionary" and metrics["translated"] > 0


def test_nothing_that_is_trained_on_opens_like_a_held_out_prompt_in_any_language(world, backbone, tmp_path):
    """The world has each question in both languages, so without this the English half would tell what the Thai held-out prompts ask."""
    metrics = run(PIVOT, {"data": world, "base": tmp_path}, backbone, tmp_path / "out")
    found = {name: read_jsonl(tmp_path / "out" / f"{name}.jsonl", PromptRecord) for name in ("prompts", "heldout_prompts", "pairs")}
    heldout = {opening(row.prompt) for row in found["heldout_prompts"]}
    assert heldout and not heldout & {opening(row.prompt) for name in ("prompts", "pairs") for row in found[name]}
    assert len(found["heldout_prompts"]) == len(read_jsonl(world / "heldout_prompts.jsonl", PromptRecord))
    gone = sum(len(read_jsonl(world / f"{name}.jsonl", PromptRecord)) - len(found[name]) for name in ("prompts", "pairs"))
    assert metrics["left_out"]["opens like a held-out prompt in the pivot language"] == gone - metrics["left_out"].get(
        "equal in the pivot language", 0
    )


def test_a_prompt_that_is_too_long_in_the_pivot_language_is_left_out(world, backbone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def long(texts, source, target): return ['x' * 600 if 'แมว' in t else t[::-1] for t in texts]\n")
    metrics = run(PIVOT, {"data": world, "base": tmp_path}, backbone, tmp_path / "out", pivot={"translator": "mine.py:long"})
    assert metrics["left_out"]["prompt too long"] > 0
    assert all(len(r.prompt[-1]["content"]) < 600 for r in read_jsonl(tmp_path / "out" / "prompts.jsonl", PromptRecord))


def test_a_part_of_the_data_of_which_nothing_is_left_is_refused(world, backbone, tmp_path, monkeypatch):
    """All held-out pairs are in Thai, and nothing can be translated."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def nothing(texts, source, target): return [None] * len(texts)\n")
    pairs = [pair for pair in read_jsonl(world / "heldout_pairs.jsonl", Comparison) if not pair.prompt[0]["content"].isascii()]
    write_jsonl(world / "heldout_pairs.jsonl", pairs)
    with pytest.raises(UserError, match=f"none of the {len(pairs)} held-out pairs is left in the pivot language.* x not translated"):
        run(PIVOT, {"data": world, "base": tmp_path}, backbone, tmp_path / "out", pivot={"translator": "mine.py:nothing"})


def test_prompts_of_which_none_is_translated_are_not_called_out_of_scope(world, backbone, tmp_path, monkeypatch):
    """The English half is answered directly, so something of each part is left."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def nothing(texts, source, target): return [None] * len(texts)\n")
    prompts = [record.prompt[0]["content"] for record in read_jsonl(world / "prompts.jsonl", PromptRecord)]
    thai = sum(not prompt.isascii() for prompt in prompts)
    assert 0 < thai < len(prompts)
    with pytest.raises(UserError, match=f"none of the {thai} prompts is left in the pivot language.* x not translated"):
        run(PIVOT, {"data": world, "base": tmp_path}, backbone, tmp_path / "out", pivot={"translator": "mine.py:nothing"})


def test_a_labeling_model_is_judged_on_what_people_see(world, backbone, tmp_path, monkeypatch):
    run(PIVOT, {"data": world, "base": tmp_path}, backbone, tmp_path / "data")
    backbone.add_adapter("sft", seed=0)
    backbone.save_adapter("sft", tmp_path / "sft")
    monkeypatch.setattr(setup, "fit_reward_model", Mock())
    judge = Mock(return_value={})
    monkeypatch.setattr(setup, "judge_reward_model", judge)
    run(across_languages(LABELER), {"data": tmp_path / "data", "base": tmp_path, "sft": tmp_path / "sft"}, backbone, tmp_path / "labeler")
    shown = {(pair.prompt[0]["content"], pair.chosen) for pair in judge.call_args.kwargs["heldout"]}
    original = {(pair.prompt[0]["content"], pair.chosen) for pair in read_jsonl(world / "heldout_pairs.jsonl", Comparison)}
    assert shown <= original and not all(prompt.isascii() for prompt, _ in shown)


def test_a_scope_that_covers_nothing_is_refused(world, backbone, tmp_path):
    with pytest.raises(UserError, match="none of the prompts is in the scope"):
        run(PIVOT, {"data": world, "base": tmp_path}, backbone, tmp_path / "out", pivot={"scope": "rule", "sources": ["hotels"]})


def test_samples_are_shown_and_labeled_in_the_users_language(world, backbone, tmp_path):
    """The policy is a random model, whose texts no dictionary changes; so one answer of each prompt is made a sentence of the world."""
    run(PIVOT, {"data": world, "base": tmp_path}, backbone, tmp_path / "data")
    policy = tmp_path / "policy"
    policy.mkdir()
    backbone.add_adapter("sft", seed=0)
    backbone.save_adapter("sft", policy)
    (policy / "manifest.json").write_text(json.dumps({"digest": "d"}))
    stage, settings = across_languages(SAMPLE), {"sample": {"num_prompts": 12, "num_completions": 2, "heldout_fraction": 0.5}}
    settings |= {"generation": {"max_new_tokens": 3}}
    run(stage, {"data": tmp_path / "data", "base": tmp_path, "policy": policy}, backbone, tmp_path / "samples", **settings)
    samples = read_jsonl(tmp_path / "samples" / "samples.jsonl", Sample)
    assert 0 < sum(sample.pivot is not None for sample in samples) < len(samples)
    assert all(
        set(sample.pivot) == {"from", "to", "prompt", "prompt_by", "completion", "completion_by"} for sample in samples if sample.pivot
    )
    said = [
        Sample(**{**vars(s), "completion": "A mango is red.", "pivot": s.pivot | {"completion": "มะม่วงมีสีแดงค่ะ"}}) if s.pivot and s.k else s
        for s in samples
    ]
    write_jsonl(tmp_path / "samples" / "samples.jsonl", said)
    metrics = run(across_languages(LABEL), {"samples": tmp_path / "samples", "base": tmp_path}, backbone, tmp_path / "labels", **settings)
    rows, by_id = read_jsonl(tmp_path / "labels" / "comparisons.jsonl", Comparison), {sample.id: sample for sample in said}
    assert metrics["comparisons"] == len(rows) and any(row.pivot for row in rows)
    shown_gold = gold_scores([as_shown(sample) for sample in said])
    for row in rows:
        assert (row.chosen, row.rejected) == (by_id[row.chosen_id].completion, by_id[row.rejected_id].completion)
        assert as_shown(row).chosen == as_shown(by_id[row.chosen_id]).completion
        difference = shown_gold[row.chosen_id] - shown_gold[row.rejected_id]
        assert row.confidence == pytest.approx(1 / (1 + 2.718281828459045**-difference))  # of what is shown, by Bradley-Terry


def test_a_stage_of_a_run_that_answers_directly_has_no_pivot(world, backbone, tmp_path):
    direct = context("sample", {"base": tmp_path}, backbone, tmp_path / "out", **SETTINGS | {"respond": "direct"})
    assert direct.pivot is None and direct.sampler.pivot is None
    with pytest.raises(UndeclaredSetting):
        _ = direct.config.pivot.translator
