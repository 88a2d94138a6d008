"""The `select` stage on a tiny backbone: which reward model it asks about what, and what it takes from the last round."""

import itertools
import json

import pytest
import torch

from configs.schema import RunConfig
from configs.views import visible
from loop.round import SELECT
from loop.stages import STAGES, Context
from loop.stages.selecting import PPO_SCORE
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from rewards.comparisons import Answer, Comparison, Sample, write_jsonl
from rewards.data.splits import Split
from rewards.keeping import read_scores
from rewards.scoring import Scorer
from rewards.selectors import features
from rewards.selectors.examples import Example, read_examples, write_examples
from tests.conftest import perturb

SPLIT = Split(seed=0, heldout_fraction=0.5)
PROMPTS = [f"question {i}" for i in range(16)]
TEXTS = ["yellow", "It is green.", "blue blue"]
PAIRS = list(itertools.combinations(TEXTS, 2))
"""The first of each is preferred."""


@pytest.fixture
def select(backbone, tmp_path):
    """Runs the stage. The retrained reward model is the opposite of the round's own one. Returns (metrics, output)."""
    for name in ("sft", "reward"):
        backbone.add_adapter(name)
        perturb(backbone, name)
    backbone.save_adapter("sft", tmp_path / "sft")
    head = torch.linspace(-1, 1, backbone.hidden_size)[None]
    for name, sign in (("reward", 1), ("retrained", -1)):
        Scorer(backbone, "reward", sign * head).save(tmp_path / name)

    def run(name, round_number, last=None, ppo_score="reward-model", **settings):
        folder = tmp_path / name
        for part in ("out", "labels", "samples"):
            (folder / part).mkdir(parents=True)
        samples = [Sample(f"{r}-{p}-{k}", p, p, text, True, r, k) for r in [round_number] for p in PROMPTS for k, text in enumerate(TEXTS)]
        rows = [Comparison(p, p, *pair, generation=round_number, heldout=SPLIT.holds_out(p)) for p in PROMPTS for pair in PAIRS]
        write_jsonl(folder / "samples" / "samples.jsonl", samples)
        write_jsonl(folder / "labels" / "comparisons.jsonl", rows)
        inputs = {part: tmp_path / part for part in ("sft", "reward", "retrained")}
        inputs |= {"base": tmp_path, "samples": folder / "samples", "labels": [folder / "labels"], "last": last}
        given = {"data": {"heldout_fraction": 0.5}, "select": settings, "ppo": {"score": ppo_score}}
        config = visible(RunConfig.model_validate(given), SELECT.visible)
        context = Context("select", round_number, config, inputs, folder / "out", Checkpoints(), report_nothing, lambda _: backbone)
        return STAGES["select"](context), folder / "out"

    return run


def own_scores(backbone, tmp_path, prompt):
    scorer = Scorer.load(backbone, "own", tmp_path / "reward")
    return scorer.score_answers([Answer(prompt, text, True) for text in TEXTS])


def test_this_rounds_samples_are_scored_by_the_rounds_own_reward_model(select, backbone, tmp_path):
    metrics, folder = select("zero", 0, kinds=["reward-model", "features"], use="reward-model")
    for example in read_examples(folder):
        scores = dict(zip(TEXTS, own_scores(backbone, tmp_path, example.prompt_id), strict=True))
        pair = (example.chosen["reward"], example.rejected["reward"])
        assert any(pair == pytest.approx((scores[a], scores[b]), abs=1e-4) for a, b in PAIRS)
    chosen = [json.loads(line) for line in (folder / "chosen.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in chosen] == PROMPTS
    for row in chosen:
        scores = own_scores(backbone, tmp_path, row["prompt"])
        assert row["score"] == pytest.approx(max(scores), abs=1e-4) and row["completion"] == TEXTS[scores.index(max(scores))]
        assert row["sample_id"] == f"0-{row['prompt']}-{TEXTS.index(row['completion'])}"
        assert row["heldout"] == SPLIT.holds_out(row["prompt"])
    of_samples = read_scores(folder)
    assert list(of_samples) == [f"0-{prompt}-{k}" for prompt in PROMPTS for k in range(len(TEXTS))]
    scores = [score for prompt in PROMPTS for score in own_scores(backbone, tmp_path, prompt)]
    assert list(of_samples.values()) == pytest.approx(scores, abs=1e-4)


def test_last_rounds_selectors_are_judged_with_the_reward_model_of_their_time(select):
    """One reward model is the opposite of the other, so what one gets right the other gets wrong."""
    first, last = select("zero", 0)
    assert first["judged_before"] == {} and first["judged"].keys() == {
        "features",
        "answer-features",
        "reward-model",
        "rules",
        "longest",
        "random",
    }
    second, _ = select("one", 1, last)
    now, before = (second[name]["reward-model"]["pairwise"]["accuracy"] for name in ("judged", "judged_before"))
    assert now == pytest.approx(1 - before) and now != before
    assert second["judged_before"].keys() == second["judged"].keys()
    assert second["heldout_comparisons"] == 3 * sum(map(SPLIT.holds_out, PROMPTS))


def test_examples_of_earlier_rounds_are_fitted_on_and_held_out_ones_never(select, tmp_path, monkeypatch):
    (tmp_path / "last").mkdir()
    earlier = [Example(f"old {i}", 0, i == 0, {"reward": 1.0}, {"reward": 0.0}) for i in range(3)]
    write_examples(tmp_path / "last", earlier)
    fitted_on = []
    real = features.fit_weights
    monkeypatch.setattr(features, "fit_weights", lambda examples: fitted_on.extend(examples) or real(examples))
    _, folder = select("one", 1, tmp_path / "last", kinds=["features"], max_examples=100)
    training = [p for p in PROMPTS if not SPLIT.holds_out(p)]
    assert [e.prompt_id for e in fitted_on] == ["old 1", "old 2", *(p for p in training for _ in PAIRS)]
    written = read_examples(folder)
    assert [e for e in written if not e.heldout] == fitted_on
    assert {e.prompt_id for e in written if e.heldout} == set(PROMPTS) - set(training) != set()


def test_without_features_no_feature_is_measured(select, monkeypatch):
    monkeypatch.setattr(features, "measure", None)
    _, folder = select("zero", 0, kinds=["rules", "longest"], use="rules")
    assert sorted(path.name for path in folder.iterdir()) == ["chosen.jsonl", "longest", "rules", "scores.jsonl", "to_label.jsonl"]


def test_ppo_gets_its_features_also_where_no_selector_uses_them(select):
    """They are those of a single answer: none of them compares it with the other candidates."""
    _, folder = select("zero", 0, ppo_score="features", kinds=["longest"], use="longest")
    saved = json.loads((folder / PPO_SCORE / "weights.json").read_text())
    assert saved["features"] == ["reward", "rules", "logprobs", "length"]
    assert saved["weights"]["reward"] != 0.0 and not any(name.startswith("agreement") for name in saved["weights"])
    assert len(read_examples(folder)) == len(PROMPTS) * len(PAIRS)
