"""The stages `labeler` and `label` with a reward model from elsewhere, and the keys that its files are part of."""

import json

import pytest

from configs import UserError, load_config
from loop.keys import planned_keys
from loop.round import LABEL, READY_LABELER
from loop.stages import STAGES as FUNCTIONS
from loop.store.measures import find_measure
from rewards.comparisons import Answer, Comparison, Sample, read_jsonl, sample_id, write_jsonl
from rewards.data.splits import content_id
from rewards.ready_model import ReadyRewardModel
from tests.unit.loop.stages.contexts import context
from tests.unit.rewards.ready_models import make_decoder

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
