"""Stages called in this process, on a tiny backbone whose answers are empty: which rows they take."""

import hashlib
import json

import pytest
import torch

from configs import UserError
from configs.schema import DataConfig, GenerationConfig, LoraSection
from loop.stages import STAGES as FUNCTIONS
from loop.stages import Context, reward_models
from loop.stages.setup import PAIR_FILES
from policies.backbone import Backbone
from policies.generation import generate
from policies.responses import EncodedPrompt, Response, make_records
from policies.tokenization import as_read, decode_completion, encode_prompt
from rewards import reward_model, sampling
from rewards.comparisons import Comparison, PromptRecord, Sample, answer_id, read_jsonl, write_jsonl
from rewards.data.preference_data import load_preference_data
from rewards.scoring import Scorer, encode_pair, ensemble
from tests.conftest import make_causal_lm
from tests.unit.loop.stages.contexts import context


@pytest.fixture
def folders(backbone, tmp_path):
    """Data of 100 prompts, sorted by source as files often are, and an adapter."""
    (tmp_path / "data").mkdir()
    for name in ("prompts", "heldout_prompts"):
        records = [PromptRecord(f"{name}-{i}", f"question {i}", "first" if i < 66 else "last") for i in range(100)]
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", records)
    backbone.add_adapter("sft")
    backbone.save_adapter("sft", tmp_path / "adapter")
    (tmp_path / "adapter" / "manifest.json").write_text('{"digest": "d"}')
    return {"data": tmp_path / "data", "base": tmp_path, **dict.fromkeys(("sft", "policy", "last"), tmp_path / "adapter")}


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    """The prompts and seeds of each call of the sampler, which is replaced, for speed, by one that always ends at once."""
    calls = []

    def respond(backbone, adapter, prompts, seeds, *rest):
        calls.append(list(zip(map(backbone.tokenizer.decode, prompts), seeds, strict=True)))
        return [Response([backbone.tokenizer.eos_token_id], True) for _ in prompts]

    monkeypatch.setattr(sampling, "generate_sharded", respond)
    monkeypatch.setattr(reward_model, "generate_sharded", respond)
    return calls


@pytest.fixture
def adapters_are_not_loaded(folders, backbone, monkeypatch):
    """For tests that call a stage many times and look only at its prompts: loading an adapter takes longer than all the rest."""
    for name in ("add_adapter", "delete_adapter"):
        monkeypatch.setattr(backbone, name, lambda *_, **__: None)


def asked(rows):
    return {(row["prompt_id"], row["source"]) for row in rows}


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.usefixtures("adapters_are_not_loaded")
def test_any_held_out_prompt_may_be_evaluated_and_all_rounds_evaluate_the_same(backbone, folders, tmp_path):
    """60 of 100 prompts a run. Over 16 seeds a prompt is left out of all with probability 0.4^16, so none of the 100 is."""
    seen = set()
    for seed in range(16):
        FUNCTIONS["baseline"](context("baseline", folders, backbone, tmp_path / "before", seed))
        before = asked(rows_of(tmp_path / "before" / "samples.jsonl"))
        assert len(before) == 60
        seen |= before
    assert len(seen) == 100
    later = context("evaluate", folders, backbone, tmp_path / "later", seed, round_number=3)
    assert {(sample.prompt_id, sample.source) for sample in later.evaluate("sft").samples} == before


@pytest.mark.usefixtures("adapters_are_not_loaded")
def test_any_prompt_may_be_sampled_also_from_the_last_round(backbone, folders, tmp_path):
    """48 training and 12 held-out prompts are asked, half of them of the last round's policy too, so a training prompt with 0.24:
    0.76^40 = 2e-5 that one is in none of 40 runs."""
    again = set()
    for seed in range(40):
        FUNCTIONS["sample"](context("sample", folders, backbone, tmp_path / "out", seed, round_number=1))
        rows = rows_of(tmp_path / "out" / "samples.jsonl")
        earlier = asked(row for row in rows if row["generation"] == 0)
        assert len(asked(rows)) == 60 and len(earlier) == 30
        assert sum(name.startswith("heldout") for name, _ in asked(rows)) == 12
        again |= {name for name, _ in earlier if name.startswith("prompts")}
    assert len(again) == 100


def test_scores_are_normalised_on_any_prompts_the_same_in_every_round(backbone, folders, tmp_path, taken):
    scorer = Scorer(backbone, "sft", torch.ones(1, backbone.hidden_size))

    def normalize_on(sequences):
        assert len(sequences) == 60

    scorer.normalize_on = normalize_on
    for round_number in (0, 1):
        reward_models.normalize(context("reward", folders, backbone, tmp_path / "out", round_number=round_number), scorer)
    assert taken[0] == taken[1]
    for seed in range(1, 16):
        reward_models.normalize(context("reward", folders, backbone, tmp_path / "out", seed, round_number=0), scorer)
    every = {record.prompt for record in read_jsonl(folders["data"] / "prompts.jsonl", PromptRecord)}
    assert {text for rows in taken for text, _ in rows} == every


def test_policies_answer_the_same_prompts_in_every_round(backbone, folders, tmp_path, taken):
    """A fifth of 60 x 4 comparisons, half of it against each opponent: 24 prompts. The SFT policy is asked in round 0 only."""
    labeler = {"labeler": {"kind": "gold", "pairs_per_prompt": 4, "win_rate_fraction": 0.2}, "data": "embedded"}

    def answer(round_number, last):
        output = tmp_path / f"answer-{round_number}"
        FUNCTIONS["answer"](context("answer", folders | {"last": last}, backbone, output, round_number=round_number, **labeler))
        return read_jsonl(output / "samples.jsonl", Sample)

    first = answer(0, None)
    second = answer(1, tmp_path / "answer-0")
    third = answer(2, tmp_path / "answer-1")
    for r, answers, others in ((0, first, [None]), (1, second, [0, None]), (2, third, [1, None])):
        by_policy = {policy: [a.prompt_id for a in answers if a.generation == policy] for policy in (r, *others)}
        assert all(prompts == by_policy[r] and len(set(prompts)) == 24 for prompts in by_policy.values())
        assert sum(map(len, by_policy.values())) == len(answers)
        assert all(a.id == answer_id(r, a.generation, a.prompt_id) and a.policy == "d" for a in answers)
    assert [len(rows) for rows in taken] == [24] * 4
    seeds = [[seed for _, seed in rows] for rows in taken]
    assert len({seed for of_policy in seeds for seed in of_policy}) == 4 * 24  # each policy draws for itself


# -- nothing to work on ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "message"),
    [("reward", "reward stage has no pair"), ("labeler", "labeler stage has no pair"), ("retrain", "retrain stage has no pair")],
)
def test_a_reward_model_without_pairs_is_refused(backbone, folders, tmp_path, stage, message):
    """All pairs are ties, so none of them says which completion is better."""
    for name in PAIR_FILES:
        write_jsonl(folders["data"] / f"{name}.jsonl", [Comparison("p", "question", "a", "b", tie=True)])
    scorer = Scorer(backbone, "sft", torch.ones(1, backbone.hidden_size))
    scorer.save(tmp_path / "reward")
    write_jsonl(folders["base"] / "comparisons.jsonl", [Comparison("p", "question", "a", "b", tie=True)])
    inputs = folders | {"reward": tmp_path / "reward", "labels": [folders["base"]]}
    with pytest.raises(UserError, match=message):
        FUNCTIONS[stage](context(stage, inputs, backbone, tmp_path / "out", round_number=0))


def test_a_selector_without_candidates_is_refused(backbone, folders, tmp_path):
    """A policy that gives one answer only leaves nothing to compare."""
    write_jsonl(folders["base"] / "comparisons.jsonl", [])
    with pytest.raises(UserError, match="select stage has no prompt to train on"):
        FUNCTIONS["select"](context("select", folders | {"labels": [folders["base"]]}, backbone, tmp_path / "out", round_number=0))


def test_scores_are_not_normalised_on_one_prompt(backbone, folders, tmp_path):
    write_jsonl(folders["data"] / "prompts.jsonl", [PromptRecord("p", "question")])
    with pytest.raises(UserError, match="one training prompt is too few"):
        reward_models.normalize(context("reward", folders, backbone, tmp_path / "out", round_number=0), None)


def test_ppo_is_scored_for_what_labelers_will_read():
    """The policy samples <|user|> inside an answer: the reward model sees these letters, as it does when it is trained."""
    model, tokenizer = make_causal_lm()
    backbone = Backbone(model, tokenizer, LoraSection(rank=4, alpha=8, layers="upper-half"), name="tiny")
    backbone.add_adapter("reward")
    scorer = Scorer(backbone, "reward", torch.ones(1, backbone.hidden_size))
    texts = ("The mango", "yellow")
    prompts = [encode_prompt(tokenizer, text) for text in texts]
    encoded = [EncodedPrompt(ids, text) for ids, text in zip(prompts, texts, strict=True)]
    responses = generate(backbone, None, prompts, [1, 2], GenerationConfig(max_new_tokens=6), trace=True)
    score = ensemble([scorer], "last")
    sampled = [[*p, *r.token_ids] for p, r in zip(prompts, responses, strict=True)]
    assert all(as_read(tokenizer, r.token_ids, r.finished) == r.token_ids for r in responses)
    torch.testing.assert_close(score(make_records(tokenizer, encoded, responses)), scorer.score(sampled))

    responses[0].token_ids[1] = tokenizer.convert_tokens_to_ids("<|user|>")
    text = decode_completion(tokenizer, responses[0].token_ids)
    assert "<|user|>" in text
    read = [encode_pair(tokenizer, "The mango", text, responses[0].finished), sampled[1]]
    torch.testing.assert_close(score(make_records(tokenizer, encoded, responses)), scorer.score(read))


def test_gold_on_unseen_facts_is_reported_by_itself(backbone, folders, tmp_path):
    heldout = load_preference_data(DataConfig(), 0).heldout_prompts
    write_jsonl(folders["data"] / "heldout_prompts.jsonl", heldout)
    drawing = context("baseline", folders, backbone, tmp_path / "out", data="embedded", evaluate={"num_prompts": len(heldout)})
    metrics = FUNCTIONS["baseline"](drawing)
    parts = metrics["gold_seen_facts"], metrics["gold_unseen_facts"]
    assert [part["count"] for part in parts] == [sum(record.unseen_fact == unseen for record in heldout) for unseen in (False, True)]
    assert metrics["gold"]["mean"] * len(heldout) == pytest.approx(sum(part["mean"] * part["count"] for part in parts))


def test_the_data_stage_tells_which_files_it_read(backbone, folders, tmp_path):
    """Two files of 20 pairs each, and the SHA-256 of each as `sha256sum` gives it. One of them has a broken line too."""
    files = []
    for part in range(2):
        rows = [{"prompt": f"say {part} {i}", "chosen": "yes", "rejected": "no"} for i in range(20)]
        files.append(tmp_path / f"pairs-{part}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    with files[1].open("a") as file:
        file.write("{broken\n")
    data = {"source": [str(file) for file in files], "labeler_fraction": 0.5}
    settings = {"data": data, "labeler": {"kind": "reward-model"}}
    metrics = FUNCTIONS["data"](context("data", folders, backbone, tmp_path / "out", **settings))
    assert metrics["pairs"] > 0 and metrics["skipped"] == {"pairs-1: not JSON": 1}
    assert set(metrics["by_source"]) == {"pairs-0", "pairs-1"}
    accounts = json.loads((tmp_path / "out" / "sources.json").read_text())
    assert [account["files"] for account in accounts] == [{str(f): hashlib.sha256(f.read_bytes()).hexdigest()} for f in files]
    assert [(a["name"], a["rows"], a["used"], a["left_out"]) for a in accounts] == [
        ("pairs-0", 20, 20, {}),
        ("pairs-1", 21, 20, {"not JSON": 1}),
    ]
    example = accounts[1]["examples"]["not JSON"]
    assert example["place"].endswith("pairs-1.jsonl, line 21") and example["excerpt"] == "{broken"
    FUNCTIONS["data"](context("data", folders, backbone, tmp_path / "embedded", data={"num_pairs": 20}))
    assert not (tmp_path / "embedded" / "sources.json").exists()


def test_the_data_stage_writes_its_ledger(backbone, folders, tmp_path):
    """40 Thai questions, one of them again, and a row without an answer."""
    rows = [{"prompt": f"คำถามที่ {i}", "chosen": "ใช่", "rejected": "ไม่ใช่"} for i in [*range(40), 0]] + [{"chosen": "", "rejected": "b"}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {"data": {"source": str(tmp_path / "pairs.jsonl")}, "curation": {"duplicates": "remove"}}
    metrics = FUNCTIONS["data"](context("data", folders, backbone, tmp_path / "out", **settings))
    (entry,) = metrics["ledger"].values()
    assert json.loads((tmp_path / "out" / "ledger.json").read_text()) == metrics["ledger"]
    assert entry["original"] == 42 and sum(entry["removed"].values()) == 2 and entry["removed"]["said before"] == 1
    assert (metrics["duplicates"], metrics["contradictions"]) == (1, 0)
    assert entry["kept"] == metrics["pairs"] and entry["moved"] == {"held out": metrics["heldout_pairs"]}


def test_rounds_are_compared_prompt_by_prompt(backbone, folders, tmp_path, monkeypatch):
    """The policy writes one token more than SFT for 50 of 100 prompts: +0.5 over SFT, with variance 0.25 x 100 / 99 and so an error of
    sqrt(0.25 / 99) = 0.0503. The next round writes the same: +0 over the last one. A reward model's gain is of the same prompts too."""
    end = backbone.tokenizer.eos_token_id

    def respond(backbone, adapter, prompts, *rest):
        longer = [adapter == "policy" and backbone.tokenizer.decode(prompt)[-1] in "02468" for prompt in prompts]
        return [Response([7, end] if more else [end], True) for more in longer]

    def evaluate(folder, round_number=None, **inputs):
        stage = "baseline" if round_number is None else "evaluate"
        of_stage = context(
            stage,
            folders | {"last": None} | inputs,
            backbone,
            tmp_path / folder,
            round_number=round_number,
            evaluate={"num_prompts": 100, "best_of": 0},
        )
        records = [PromptRecord(f"heldout_prompts-{i}", f"question {i}") for i in range(100)]
        write_jsonl(folders["data"] / "heldout_prompts.jsonl", records)
        return FUNCTIONS[stage](of_stage)

    monkeypatch.setattr(sampling, "generate_sharded", respond)
    monkeypatch.setattr(Context, "backbone_with_sft", lambda self: self.backbone)
    backbone.add_adapter("reward")
    Scorer(backbone, "reward", torch.ones(1, backbone.hidden_size)).save(tmp_path / "reward")
    pairs = [Comparison(f"p{i}", f"question {i}", "a", "bc", heldout=True) for i in range(4)]
    for file in (folders["data"] / "heldout_pairs.jsonl", tmp_path / "labels" / "comparisons.jsonl"):
        file.parent.mkdir(exist_ok=True)
        write_jsonl(file, pairs)
    models = {"reward": tmp_path / "reward", "retrained": tmp_path / "reward", "labels": [tmp_path / "labels"]}

    before = evaluate("baseline")
    assert before["length"] == {"mean": 1.0, "standard_error": 0.0, "count": 100} and "kl" not in before
    first = evaluate("first", 0, baseline=tmp_path / "baseline", **models)
    assert first["length_over_sft"] == {"mean": 0.5, "standard_error": pytest.approx((0.25 / 99) ** 0.5), "count": 100}
    assert first["proxy_gain"]["mean"] == pytest.approx(first["proxy_score"]["mean"] - of_sft(backbone, tmp_path), abs=1e-6)
    assert not any(name.endswith("_over_last") for name in first)
    second = evaluate("second", 1, baseline=tmp_path / "baseline", last=tmp_path / "first", **models)
    assert second["length_over_last"]["mean"] == second["kl_over_last"]["mean"] == 0.0
    assert second["retrained_gain"]["round-000"]["mean"] == 0.0


def of_sft(backbone, folder):
    """The reward model's mean score of the SFT policy's samples."""
    scorer = Scorer.load(backbone, "reward", folder / "reward")
    samples = read_jsonl(folder / "baseline" / "samples.jsonl", Sample)
    scores = scorer.score([encode_pair(backbone.tokenizer, s.prompt, s.completion, s.finished) for s in samples])
    return scores.mean().item()
