"""The stages that turn samples into training data, and PPO that starts from them, on a tiny backbone. Everything is trained as ever."""

import json

import pytest
import torch

from configs import UserError
from configs.schema import RunConfig
from configs.views import visible
from loop.round import STAGES
from loop.stages import STAGES as FUNCTIONS
from loop.stages import Context, rounds, selecting
from loop.store.measures import headline
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from policies.responses import EncodedPrompt, Response, make_records
from policies.tokenization import encode_prompt
from rewards.comparisons import Comparison, PromptRecord, Sample, write_jsonl
from rewards.data.splits import Split, content_id
from rewards.keeping import SCORES, read_kept
from rewards.measurements import Measurement
from rewards.reward_model import normalize_on_reference
from rewards.scoring import Scorer, ensemble
from rewards.world import writer
from rewards.world.gold import gold_scores
from tests.conftest import perturb

SETTINGS = {
    "data": {"source": "pairs.jsonl", "heldout_fraction": 0.5},
    "labeler": {"kind": "preferences-file", "path": "labels.jsonl"},
    "generation": {"max_new_tokens": 8},
    "keep": {"filters": ["empty"], "batch_size": 4, "learning_rate": 1e-2},
    "ppo": {"init": "selected", "num_updates": 1, "batch_size": 8, "learning_rate": 1e-12, "evaluate_every": 0},
}
LAW = Split(0, 0.5)
QUESTIONS = [f"question {i}" for i in range(24)]
TRAINING = [question for question in QUESTIONS if not LAW.holds_out(question)]


@pytest.fixture
def run(backbone, tmp_path):
    """Runs one stage in this process, and returns its metrics and its directory."""
    backbone.add_adapter("sft")
    perturb(backbone, "sft")
    backbone.save_adapter("sft", tmp_path / "sft")
    backbone.add_adapter("reward", copy_of="sft")
    Scorer(backbone, "reward", torch.ones(1, backbone.hidden_size)).save(tmp_path / "reward")
    (tmp_path / "select").mkdir(exist_ok=True)
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "pairs.jsonl", [Comparison(content_id(q), q, "original", "b") for q in TRAINING])
    write_jsonl(tmp_path / "data" / "prompts.jsonl", [PromptRecord(content_id(q), q) for q in TRAINING])
    folders = {"base": tmp_path} | {name: tmp_path / name for name in ("sft", "reward", "select", "data")}

    def run(name, round_number=0, settings=None, output=None, **inputs):
        stage = next(found for found in STAGES if found.name == name)
        config = RunConfig.model_validate(
            {section: SETTINGS.get(section, {}) | (settings or {}).get(section, {}) for section in SETTINGS | (settings or {})}
        )
        folder = tmp_path / (output or f"{round_number}-{name}")
        folder.mkdir()
        context = Context(
            name,
            round_number,
            visible(config, stage.visible),
            folders | inputs,
            folder,
            Checkpoints(),
            report_nothing,
            get_backbone=lambda folder: backbone,
        )
        return FUNCTIONS[name](context), folder

    return run


def samples_of(round_number, prompts):
    """Three samples of each prompt: an empty one, a short one and a long one, which names the round."""
    answers = ("", "short", f"the long one of round {round_number}")
    return [
        Sample(f"{round_number}-{round_number}-{content_id(q)}-{k}", content_id(q), q, text, True, round_number, k, "mail")
        for q in prompts
        for k, text in enumerate(answers)
    ]


def score(samples, folder):
    """Write what a selector that likes the longest completion would write."""
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / SCORES, [{"sample_id": s.id, "score": float(len(s.completion))} for s in samples])


@pytest.fixture
def drawn(tmp_path):
    """The directories of two rounds' samples. Round 0 asks all questions, round 1 the first half of them."""
    folders = []
    for round_number, questions in enumerate((QUESTIONS, QUESTIONS[:12])):
        folders.append(tmp_path / f"samples-{round_number}")
        folders[-1].mkdir()
        write_jsonl(folders[-1] / "samples.jsonl", samples_of(round_number, questions))
    score(samples_of(0, QUESTIONS) + samples_of(1, QUESTIONS), tmp_path / "select")
    return folders


def adapter_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def test_a_round_keeps_what_its_selector_likes_and_what_earlier_rounds_have_kept(run, drawn):
    """The selector likes the longest one. Each round keeps one completion of each training prompt, and none of a held-out one."""
    metrics, first = run("keep", samples=drawn[0])
    kept = read_kept(first)
    assert {row.prompt for row in kept} == set(TRAINING) and len(kept) == len(TRAINING) == metrics["kept"]
    assert {row.completion for row in kept} == {"the long one of round 0"} and {row.score for row in kept} == {23.0}
    assert metrics["generated"] == 3 * len(TRAINING) and metrics["carried"] == 0 and metrics["newly_kept"] == {"mail": len(TRAINING)}
    assert metrics["left_out"] == {"empty": len(TRAINING), "beyond keep.per_prompt": len(TRAINING)}
    assert "gold" not in metrics

    again = [question for question in TRAINING if question in QUESTIONS[:12]]
    metrics, second = run("keep", 1, samples=drawn[1], last=first)
    kept = read_kept(second)
    assert [row.generation for row in kept] == [1] * len(again) + [0] * (len(TRAINING) - len(again))
    assert {row.prompt for row in kept[: len(again)]} == set(again) and len({row.prompt_id for row in kept}) == len(kept)
    assert metrics["kept_by_round"] == {"round-001": len(again), "round-000": len(TRAINING) - len(again)}
    assert metrics["left_out"] == {"empty": len(again), "beyond keep.per_prompt": 2 * len(again)}
    assert metrics["generated"] + metrics["carried"] == metrics["kept"] + sum(metrics["left_out"].values())


def test_what_keeping_is_worth_is_measured_where_gold_is_known(run, tmp_path):
    """Of two samples of a prompt, the longer one names the right value and the other one nothing. A filter takes one of the longer ones."""
    asked = [prompt for prompt in writer.all_prompts().values() if not LAW.holds_out(prompt.as_messages())][:3]
    samples = [
        Sample(f"0-0-{p.id}-{k}", p.id, p.as_messages(), text, k == 1 or p != asked[0], 0, k, p.source)
        for p in asked
        for k, text in enumerate((f"{p.value} {p.value}", "?"))
    ]
    write_jsonl(tmp_path / "samples.jsonl", samples)
    score(samples, tmp_path / "select")
    settings = {"data": {"source": "embedded"}, "labeler": {"kind": "gold"}, "keep": {"filters": ["missing_end"]}}
    metrics, folder = run("keep", settings=settings, samples=tmp_path)
    gold = gold_scores(samples)
    chosen = [samples[1], samples[2], samples[4]]
    assert {row.id for row in read_kept(folder)} == {sample.id for sample in chosen}
    units = [sample.prompt_id for sample in chosen]
    best = Measurement([gold[sample.id] for sample in chosen], units)
    both = Measurement([(gold[samples[i].id] + gold[samples[i + 1].id]) / 2 for i in (0, 2, 4)], units)
    assert metrics["gold"] == pytest.approx(best.mean()) and metrics["gold_over_samples"] == pytest.approx((best - both).mean())


def test_the_refreshed_policy_writes_what_was_kept(run, drawn, backbone, tmp_path):
    """Kept rows and as many original ones, from a copy of the SFT adapter, which stays as it is."""
    _, keep = run("keep", samples=drawn[0])
    metrics, folder = run("refresh", keep=keep, settings={"keep": {"num_epochs": 8}})
    assert metrics["rows"] == 2 * len(TRAINING)
    assert metrics["mixture"] == {"round-000": len(TRAINING), "original": len(TRAINING)}
    log = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert metrics["loss"] < log[0] / 2
    sft, refreshed = adapter_of(tmp_path / "sft"), adapter_of(folder)
    assert sft.keys() == refreshed.keys() and not all(torch.equal(sft[name], refreshed[name]) for name in sft)
    assert all(torch.equal(sft[name], tensor) for name, tensor in backbone.adapter_state("sft").items())
    assert "PPO of the next round starts from it" in (folder / "README.md").read_text()


def test_without_kept_completions_there_is_nothing_to_refresh_with(run, tmp_path):
    (tmp_path / "kept.jsonl").write_text("")
    with pytest.raises(UserError, match="no sample of the rounds so far is kept"):
        run("refresh", keep=tmp_path)


@pytest.fixture
def refreshed(backbone, tmp_path):
    """The directory of an adapter that is far from the SFT adapter."""
    backbone.add_adapter("refreshed", copy_of="sft")
    perturb(backbone, "refreshed", scale=0.3, seed=1)
    backbone.save_adapter("refreshed", tmp_path / "refreshed")
    return tmp_path / "refreshed"


@pytest.mark.parametrize("reference", ["sft", "start"])
def test_ppo_starts_from_the_refreshed_policy_and_measures_the_kl_from_where_it_is_told(run, refreshed, tmp_path, backbone, reference):
    """One update with a learning rate of 1e-12: AdamW moves each weight by at most that, so the policy is where PPO started. From there
    the KL is 0 up to rounding. From the SFT policy it is not."""
    backbone.add_adapter("start", copy_of="sft")  # left by another stage: it must not be used
    metrics, folder = run("policy", 1, {"ppo": {"reference": reference}}, rewards=[tmp_path / "reward"], select=None, start=refreshed)
    trained, start = adapter_of(folder), adapter_of(refreshed)
    assert all(torch.allclose(trained[name], start[name], atol=1e-6) for name in start)
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert metrics["reference"] == reference
    assert abs(first["objective/kl"]) < 1e-4 if reference == "start" else abs(first["objective/kl"]) > 0.1


@pytest.mark.parametrize(
    ("init", "inputs"), [("selected", ()), ("sft", ("last", "start")), ("selected", ("last",)), ("last", ("last",)), ("last", ("start",))]
)
def test_ppo_starts_only_from_the_policy_that_it_is_told_to(run, refreshed, tmp_path, init, inputs):
    """Round 0 has no earlier policy and starts from the SFT policy, from which the KL is measured then. So does a round whose inputs have
    only a policy that `ppo.init` does not name."""
    settings = {"ppo": {"reference": "start", "init": init}}
    metrics, folder = run("policy", 1, settings, rewards=[tmp_path / "reward"], select=None, **dict.fromkeys(inputs, refreshed))
    from_sft = (init, inputs) != ("last", ("last",))
    expected, trained = adapter_of(tmp_path / "sft" if from_sft else refreshed), adapter_of(folder)
    assert all(torch.allclose(trained[name], expected[name], atol=1e-6) for name in expected)
    assert metrics["reference"] == ("sft" if from_sft else "start")
    assert abs(json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["objective/kl"]) < 1e-4


@pytest.mark.parametrize(("kind", "round_number"), [("mean", 1), ("min", 1), ("last", 1), ("min", 0)])
def test_several_reward_models_are_normalised_together(run, backbone, tmp_path, monkeypatch, kind, round_number):
    """Two reward models, each of which is normalized. On the SFT policy's samples, their minimum has a mean below 0, and their mean a
    deviation below 1. What PPO maximizes has 0 and 1 again, with one reward model as with two."""
    records = _records(backbone, QUESTIONS)
    scores = {}
    for i, seed in enumerate((1, 2)):
        perturb(backbone, "reward", seed=seed)
        scorer = Scorer(backbone, "reward", torch.ones(1, backbone.hidden_size))
        normalize_on_reference(scorer, records)
        scorer.save(tmp_path / f"reward-{i}")
    real = selecting.score_function
    monkeypatch.setattr(selecting, "reference_records", lambda context: records)
    monkeypatch.setattr(rounds, "score_function", lambda context, scorers: scores.setdefault("used", real(context, scorers)))
    rewards = [tmp_path / f"reward-{i}" for i in range(round_number + 1)]
    settings = {"reward": {"ensemble": kind}, "ppo": {"init": "sft", "num_updates": 0}}
    run("policy", round_number, settings, rewards=rewards, select=None)
    plain = ensemble([Scorer.load(backbone, f"again-{i}", path) for i, path in enumerate(rewards)], kind)(records)
    for i, path in enumerate(rewards):
        Scorer.load(backbone, f"reward-{i}", path)  # the stage has dropped them
    used = torch.as_tensor(scores["used"](records))
    assert used.mean().item() == pytest.approx(0.0, abs=1e-4) and used.std().item() == pytest.approx(1.0, abs=1e-4)
    if kind == "last" or not round_number:
        assert torch.equal(used, plain)
    else:
        assert plain.std() < 0.99 if kind == "mean" else plain.mean() < -0.1


def _records(backbone, questions):
    """One response of three tokens to each question."""
    prompts = [EncodedPrompt(encode_prompt(backbone.tokenizer, question), question, question) for question in questions]
    return make_records(backbone.tokenizer, prompts, [Response([3 + i, 7 + 2 * i, 9 + i], False) for i in range(len(prompts))])


@pytest.mark.parametrize("advantage", ["rloo", "gae"])
def test_a_critic_is_made_only_for_advantages_that_need_one(run, tmp_path, backbone, advantage):
    settings = {"ppo": {"init": "sft", "advantage": advantage, "value_model": "adapter", "kl_coefficient": 0.0}}
    metrics, folder = run("policy", 0, settings, rewards=[tmp_path / "reward"], select=None)
    assert (folder / "value").exists() == (advantage == "gae") and (metrics["memory"]["heads"] > 0) == (advantage == "gae")
    assert "objective/kl_last_updates" not in metrics and headline("policy", metrics)
