"""Preference-model pretraining in a run: the stage `pmp`, the reward models that start from it, and the keys."""

import json

import pytest
import torch

from configs import UserError, load_config
from configs.loading import read_given
from loop.commands.run import check_given
from loop.keys import planned_keys
from loop.round import LABELER, PMP
from loop.stages import STAGES as FUNCTIONS
from loop.stages import reward_models, setup
from loop.store.measures import find_measure, headline
from policies.adapters import load_head
from rewards.comparisons import Comparison, PromptRecord, write_jsonl
from rewards.data.splits import Split
from rewards.scoring import Scorer
from tests.conftest import perturb
from tests.unit.loop.fake_executor import FakeDriver
from tests.unit.loop.stages.contexts import context

VOTES = "pmp.sources=[{path: votes.jsonl}]"
SETTINGS = {"sources": [{"path": "votes.jsonl"}], "num_epochs": 3, "learning_rate": 1e-2, "batch_size": 16}


@pytest.fixture
def run(backbone, tmp_path, monkeypatch):
    """80 questions with three answers: yellow has 7 votes, green -1, and a third one 7 too, so there are two pairs of each question."""
    monkeypatch.chdir(tmp_path)
    rows = []
    for i in range(80):
        answers = [
            {"id": k, "score": votes, "body_html": text} for k, (text, votes) in enumerate([("yellow", 7), ("green", -1), ("sun", 7)])
        ]
        rows.append({"title": f"mango {i}?", "answers": answers})
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "data").mkdir()
    pairs = [Comparison(f"p{i}", [{"role": "user", "content": f"banana {i}?"}], "yellow", "green") for i in range(8)]
    for name in ("pairs", "heldout_pairs"):
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", pairs)
    write_jsonl(tmp_path / "data" / "heldout_prompts.jsonl", [])
    backbone.add_adapter("sft")
    perturb(backbone, "sft")
    backbone.save_adapter("sft", tmp_path / "sft")
    return {"data": tmp_path / "data", "base": tmp_path, "sft": tmp_path / "sft"}


def pretrain(run, backbone, folder, seed=0, **more):
    return FUNCTIONS["pmp"](context("pmp", run, backbone, folder, seed, pmp=SETTINGS | more))


def test_the_stage_learns_from_votes_and_judges_what_it_holds_out(run, backbone, tmp_path, monkeypatch):
    """It holds out the questions that the run would hold out, and asks its questions as the run does, as dialogues."""
    seen, original = {}, setup.train_preference_model

    def noted(backbone, adapter, pairs, *rest):
        seen["pairs"] = pairs
        return original(backbone, adapter, pairs, *rest)

    monkeypatch.setattr(setup, "train_preference_model", noted)
    metrics = pretrain(run, backbone, tmp_path / "pmp", seed=3)
    split = Split(3, 0.22)
    heldout = [i for i in range(80) if split.holds_out(f"mango {i}?")]
    assert 5 < len(heldout) < 40 and (metrics["pairs"], metrics["heldout_pairs"]) == (2 * (80 - len(heldout)), 2 * len(heldout))
    asked = {pair.prompt[0]["content"] for pair in seen["pairs"]}
    assert asked == {f"mango {i}?" for i in range(80) if i not in heldout}
    assert metrics["accuracy_heldout"]["accuracy"] == metrics["accuracy_original"]["accuracy"] == 1.0
    assert metrics["accuracy_original"]["pairs"] == 8 and metrics["by_source"] == {"votes": metrics["pairs"]}
    assert all(find_measure(name) for name in metrics) and headline("pmp", metrics).startswith("pairs ")
    (account,) = json.loads((tmp_path / "pmp" / "sources.json").read_text())
    assert account["rows"] == 80 and list(account["files"]) == ["votes.jsonl"]
    assert (tmp_path / "pmp" / "README.md").read_text().startswith("---\nbase_model")
    assert set(json.loads((tmp_path / "pmp" / "ledger.json").read_text())) == {"votes"}
    assert "pmp" not in backbone._parameters


def test_binarised_answers_leave_room_for_the_control_words(run, backbone, tmp_path):
    """With the limit at exactly the longest answer and its end, a control word has no room."""
    limit = {"max_completion_tokens": 1 + max(len(backbone.tokenizer(text)["input_ids"]) for text in ("yellow", "green", "sun"))}
    data = {"source": "pairs.jsonl"} | limit
    settings = {"data": data, "generation": {"max_new_tokens": 1}}
    ranked = FUNCTIONS["pmp"](context("pmp", run, backbone, tmp_path / "a", pmp=SETTINGS | {"num_epochs": 0.1}, **settings))
    assert ranked["left_out"] == {}
    with pytest.raises(UserError, match="none of the .* votes is short enough"):
        FUNCTIONS["pmp"](context("pmp", run, backbone, tmp_path / "b", pmp=SETTINGS | {"binarised": True}, **settings))


def test_reward_models_start_from_it(run, backbone, tmp_path, monkeypatch):
    """The reward model of round 0 and a retrained one that does not go on from the last one have its adapter and its head before the first
    step. The labeler, which stands in for people, starts from SFT."""
    pretrain(run, backbone, tmp_path / "pmp")
    starts = []

    def noted(backbone, adapter, pairs, config, checkpoints, seed, report, head=None):
        starts.append((backbone.adapter_state(adapter), head))
        return Scorer(backbone, adapter, torch.ones(1, backbone.hidden_size)), []

    monkeypatch.setattr(reward_models, "train_reward_model", noted)
    pairs = [Comparison("p", "q", "a", "b")]
    backbone.add_adapter("given", copy_of="sft")
    given = Scorer(backbone, "given", torch.zeros(1, backbone.hidden_size))
    pmp = run | {"pmp": tmp_path / "pmp"}
    cases = ((run, None), (pmp, None), (pmp, given))
    for number, (inputs, start) in enumerate(cases):
        stage = context("retrain", inputs, backbone, tmp_path / f"out-{number}", round_number=0)
        stage.backbone_with_sft()
        assert reward_models.start_of(stage) == ("sft" if inputs is run else "pmp")
        reward_models.fit_reward_model(stage, "reward", pairs, start=start)
    backbone.add_adapter("learnt", folder=tmp_path / "pmp")
    sft, learnt = backbone.adapter_state("sft"), backbone.adapter_state("learnt")
    assert not alike(sft, learnt)
    assert [alike(state, expected) for (state, _), expected in zip(starts, (sft, learnt, sft), strict=True)] == [True] * 3
    assert starts[0][1] is None and torch.equal(starts[1][1], load_head(tmp_path / "pmp")) and torch.equal(starts[2][1], given.head)
    assert "pmp" not in LABELER.reads and "pmp" not in backbone._parameters


def alike(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_only_runs_with_votes_have_the_stage(tmp_path):
    """Without votes all keys are those of before. With them, the first reward model and all that follows has another one."""
    plain, votes, off = (planned_keys(load_config(overrides=words, num_rounds=1)) for words in ([], [VOTES], [VOTES, "reward.init=sft"]))
    assert "setup/pmp" not in plain and list(off) == list(plain)
    same = [name for name in plain if votes[name] == plain[name]]
    assert same == ["setup/data", "setup/base", "setup/filter", "setup/sft", "setup/baseline"] and set(votes) - set(plain) == {"setup/pmp"}
    assert planned_keys(load_config(overrides=[VOTES, "reward.init=pmp"], num_rounds=1))["setup/pmp"] == votes["setup/pmp"]
    other = planned_keys(load_config(overrides=[VOTES, "pmp.binarised=true"], num_rounds=1))
    assert other["setup/pmp"] != votes["setup/pmp"] and other["round-000/reward"] != votes["round-000/reward"]
    driver = FakeDriver(tmp_path / "x", VOTES, num_rounds=2)
    driver.execute()
    assert driver.made.index("setup/pmp") == driver.made.index("setup/sft") + 1
    payload = (tmp_path / "x" / "round-001" / "reward" / "payload.txt").read_text()
    assert "'pmp'" not in payload and "'retrained'" in payload


def test_an_edited_function_of_votes_makes_the_stage_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def votes(): ...\n")
    words = ["pmp.sources=[{path: 'mine.py:votes'}]"]
    before = planned_keys(load_config(overrides=words, num_rounds=1))
    (tmp_path / "mine.py").write_text("def votes(): return []\n")
    after = planned_keys(load_config(overrides=words, num_rounds=1))
    assert PMP.calls == ("pmp.sources",) and before["setup/pmp"] != after["setup/pmp"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["reward.init=pmp"], "pmp.sources names none"),
        (["pmp.sources=[{path: a.jsonl, kind: prompts}]"], "a.jsonl of pmp.sources has kind prompts"),
        (["pmp.sources=[{path: a.jsonl, weight: 2}]"], "weight is given in pmp.sources, but pmp.max_pairs takes all pairs"),
        (["pmp.sources=[{path: a.jsonl, name: x}, {path: b.jsonl, name: x}]"], "two of pmp.sources have the name 'x'"),
        (["pmp.batch_size=33", "runtime.workers=2"], "pmp.batch_size must be divisible by runtime.workers"),
        (["reward.init=last"], "reward.init"),
    ],
)
def test_settings_that_do_not_fit_are_refused(words, what):
    with pytest.raises(UserError) as caught:
        load_config(overrides=words)
    assert what in str(caught.value) and caught.value.to_do


def test_votes_that_are_only_equal_or_missing_are_named(run, backbone, tmp_path):
    with pytest.raises(UserError, match="no usable preference pair"):
        rows = [{"title": "q", "answers": [{"id": k, "score": 3, "body_html": str(k)} for k in range(2)]}]
        (tmp_path / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        pretrain(run, backbone, tmp_path / "equal")


def test_a_tie_is_not_learnt(run, backbone, tmp_path):
    """A source may have ties, as ranked trees have. They say nothing of which answer is better."""
    rows = [{"prompt": f"mango {i}?", "chosen": "yellow", "rejected": "green", "tie": i % 2 == 0} for i in range(80)]
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = pretrain(run, backbone, tmp_path / "ties", num_epochs=0.1)
    assert metrics["pairs"] + metrics["heldout_pairs"] == 40


def test_votes_that_open_like_a_held_out_prompt_in_translation_are_not_learnt(run, backbone, tmp_path):
    """The run holds out two questions in Thai, which it reads in English: one has a pair, and the other only a prompt. Each
    question has two pairs of votes."""
    training = [i for i in range(80) if not Split(0, 0.22).holds_out(f"mango {i}?")]
    prompts = [[{"role": "user", "content": f"mango {i}?"}] for i in training]
    write_jsonl(run["data"] / "heldout_pairs.jsonl", [Comparison("thai", prompts[0], "yellow", "green", pivot={"prompt": "มะม่วง"})])
    write_jsonl(run["data"] / "heldout_prompts.jsonl", [PromptRecord("thai too", prompts[1], pivot={"prompt": "มะม่วงล่ะ"})])
    metrics = pretrain(run, backbone, tmp_path / "pmp", num_epochs=0.1)
    assert metrics["left_out"] == {"opens like a held-out prompt": 4} and metrics["pairs"] == 2 * (len(training) - 2)
    write_jsonl(run["data"] / "heldout_prompts.jsonl", [PromptRecord("all", prompt) for prompt in prompts])
    with pytest.raises(UserError, match="votes open like held-out prompts"):
        pretrain(run, backbone, tmp_path / "none")


def test_a_missing_file_of_votes_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"votes\.jsonl") as caught:
        check_given(read_given(None, [VOTES]), data_was_read=False)
    assert "pmp.sources" in caught.value.where
    assert check_given(read_given(None, [VOTES]), data_was_read=False, votes_were_read=True).uses_pmp
