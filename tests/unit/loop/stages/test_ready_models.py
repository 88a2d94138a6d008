"""The stages `labeler` and `label` with a reward model from elsewhere, and the keys that its files are part of."""

import json
import os
from dataclasses import replace

import pytest

from configs import UserError, load_config
from loop.keys import planned_keys
from loop.round import LABEL, READY_LABELER
from loop.stages import STAGES as FUNCTIONS
from loop.stages.ready_models import load_recorded
from loop.store.measures import find_measure
from rewards.comparisons import Answer, Comparison, Sample, read_jsonl, sample_id, write_jsonl
from rewards.data.splits import content_id
from rewards.ready_model import ReadyRewardModel
from tests.forked import HUB, Forked
from tests.unit.loop.stages.contexts import context
from tests.unit.rewards.ready_models import make_adapter, make_decoder

DATA = ("data=pairs.jsonl",)


@pytest.fixture
def run(tmp_path):
    """A model in `rm`, held-out and training pairs in `data`, and the samples of round 0."""
    make_decoder(tmp_path / "rm")
    pairs = [Comparison(f"p{i}", f"question {i}", f"yes {i}", f"no {i} no") for i in range(8)]
    (tmp_path / "data").mkdir()
    for name in ("pairs", "heldout_pairs"):
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", pairs)
    (tmp_path / "samples").mkdir()
    prompts = [f"question {p}" for p in range(12)]
    rows = [Sample(sample_id(0, 0, content_id(p), k), content_id(p), p, ["yes", "no no"][k], True, 0, k) for p in prompts for k in (0, 1)]
    write_jsonl(tmp_path / "samples" / "samples.jsonl", rows)
    return tmp_path


def labeler(folder, **more):
    return {"kind": "reward-model", "model": str(folder / "rm")} | more


def record(run):
    metrics = FUNCTIONS["labeler"](context(READY_LABELER, {"data": run / "data"}, None, run / "labeler", labeler=labeler(run)))
    assert all(find_measure(name) for name in metrics)
    return metrics


def label(run, name="label", **settings):
    inputs = {"samples": run / "samples", "labeler": run / "labeler"}
    FUNCTIONS["label"](context(LABEL, inputs, None, run / name, round_number=0, **settings))
    return read_jsonl(run / name / "comparisons.jsonl", Comparison)


def test_it_is_recorded_judged_and_asked(run):
    metrics = record(run)
    assert metrics["accuracy_heldout"]["pairs"] == 8 and metrics["shorter_wins"]["accuracy"] == 1.0
    written = json.loads((run / "labeler" / "model.json").read_text())
    assert written["files"][str(run / "rm")].keys() >= {"config.json", "model.safetensors", "tokenizer.json"}
    rows = label(run, labeler=labeler(run))
    assert len(rows) == 12 and {row.labeler for row in rows} == {"reward-model"}
    model = ReadyRewardModel.load(context(LABEL, {}, None, run / "x", labeler=labeler(run)).config.labeler, 1000)
    for row in rows:
        chosen, rejected = model.score_answers([Answer(row.prompt, text, True) for text in (row.chosen, row.rejected)])
        assert row.confidence == pytest.approx(1 / (1 + 2.718281828 ** (rejected - chosen)), abs=1e-4)


def test_it_can_be_a_part_of_a_mixture(run):
    record(run)
    mixed = labeler(run, kind="mixture", parts=["reward-model", "rules"], shares=[0.5, 0.5], double_fraction=0.0)
    by = {row.prompt_id: row.labeler for row in label(run, labeler=mixed)}
    assert len(by) == 12 and set(by.values()) == {"reward-model", "rules"}


def test_texts_that_are_too_long_for_it_get_no_label(run):
    """A model of 64 positions. Of nine held-out pairs and 24 samples, one each has 100 words."""
    make_decoder(run / "rm", positions=64)
    long = "yes " * 100
    pairs = read_jsonl(run / "data" / "heldout_pairs.jsonl", Comparison)
    write_jsonl(run / "data" / "heldout_pairs.jsonl", [*pairs, replace(pairs[0], prompt_id="long", prompt="long?", chosen=long)])
    first, *others = read_jsonl(run / "samples" / "samples.jsonl", Sample)
    write_jsonl(run / "samples" / "samples.jsonl", [replace(first, completion=long), *others])
    metrics = record(run)
    assert metrics["accuracy_heldout"]["pairs"] == 8
    assert "1 of 9 held-out pairs have more than the 64 tokens" in metrics["warnings"][0]
    rows = label(run, labeler=labeler(run))
    assert len(rows) == 11 and first.prompt_id not in {row.prompt_id for row in rows}

    write_jsonl(run / "data" / "heldout_pairs.jsonl", [replace(pairs[0], chosen=long)])
    with pytest.raises(UserError, match="reads at most 64 tokens, and all 1 held-out pairs have more"):
        record(run)


def record_and_move(folder, main, first, second):
    """Record the hub's model while its main branch is at the first commit, and print a score of what is loaded once it is at the second."""
    settings = {"kind": "reward-model", "model": "somebody/rm"}
    main.write_text(first)
    metrics = FUNCTIONS["labeler"](context(READY_LABELER, {"data": folder / "data"}, None, folder / "labeler", labeler=settings))
    main.write_text(second)
    model = load_recorded(context(LABEL, {"labeler": folder / "labeler"}, None, folder / "x", labeler=settings))
    print(json.dumps([metrics["commit"], *model.score_answers([Answer("question 1", "yes", True)])]))


def test_a_model_of_the_hub_stays_at_its_commit(run):
    """A hub's cache as transformers reads it, offline."""
    hub = HUB / "models--somebody--rm"
    first, second = "a" * 40, "b" * 40
    make_decoder(hub / "snapshots" / second, hidden_size=16)
    make_decoder(hub / "snapshots" / first)
    (hub / "refs").mkdir()
    printed, said = run / "out", run / "err"
    words = (run, hub / "refs" / "main", first, second)
    process = Forked(record_and_move, *words, folder=run, environment=os.environ, out=printed, err=said)
    assert process.wait(120) == 0, said.read_text()
    settings = context(LABEL, {}, None, run / "x", labeler=labeler(run)).config.labeler  # `rm` has the weights of the first commit
    expected = ReadyRewardModel.load(settings, 1000).score_answers([Answer("question 1", "yes", True)])
    assert json.loads(printed.read_text().splitlines()[-1]) == [first, pytest.approx(expected[0], abs=1e-5)]


def test_an_adapter_that_names_another_base_is_told(run):
    model, _ = make_decoder(run / "rm")
    make_adapter(model, run / "adapter", base="org/name")
    settings = labeler(run, adapter=str(run / "adapter"))
    metrics = FUNCTIONS["labeler"](context(READY_LABELER, {"data": run / "data"}, None, run / "labeler", labeler=settings))
    assert f"names org/name as its base, and is put on {run / 'rm'}" in metrics["warnings"][0]
    written = json.loads((run / "labeler" / "model.json").read_text())
    assert written["files"].keys() == {str(run / "rm"), str(run / "adapter")}


def test_files_that_were_changed_since_are_refused(run):
    record(run)
    (run / "rm" / "config.json").write_text((run / "rm" / "config.json").read_text() + "\n")
    with pytest.raises(UserError, match=r"was changed while the run was using it: .*rm/config.json"):
        label(run, labeler=labeler(run))


def test_the_keys_depend_on_the_weights(run, monkeypatch):
    config = load_config(overrides=[*DATA, "labeler.kind=reward-model", f"labeler.model={run / 'rm'}"], num_rounds=1)
    before = planned_keys(config)
    assert planned_keys(config) == before
    make_decoder(run / "rm", hidden_size=16)
    changed = [name for name, key in planned_keys(config).items() if key != before[name]]
    assert changed == ["setup/labeler", *(f"round-000/{name}" for name in ("label", "retrain", "select", "keep", "evaluate"))]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["labeler.kind=reward-model"], "or name a model that is trained already: labeler.model=FOLDER"),
        (["labeler.kind=reward-model", "labeler.model=a/b", "data.labeler_fraction=0.5"], "nobody would use these pairs"),
        (["labeler.kind=rules", "labeler.model=a/b"], "labeler.model is for labeler.kind=reward-model, not for rules"),
        (["labeler.kind=rules", "labeler.adapter=a"], "labeler.adapter is for a model that labeler.model names"),
    ],
)
def test_settings_that_do_not_fit(words, what):
    with pytest.raises(UserError) as refused:
        load_config(overrides=[*DATA, *words])
    assert what in str(refused.value) + refused.value.to_do
