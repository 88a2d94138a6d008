"""Reward models from elsewhere: their scores are those that transformers gives for each answer alone, and what is none is refused."""

import json
import math
import shutil

import pytest
import torch

from configs import UserError
from configs.schema import LabelerConfig
from rewards.comparisons import Answer, win_probability
from rewards.ready_folders import check_ready_model, find_model, tensor_shapes, weight_bytes
from rewards.ready_model import ReadyRewardModel
from tests.unit.rewards.ready_models import make_adapter, make_decoder, make_encoder, make_of_a_run

QUESTION = "what colour is a mango ?"
ANSWERS = [
    Answer([{"role": "user", "content": QUESTION}], "yellow .", True),
    Answer([{"role": "user", "content": QUESTION}], "blue", True),
    Answer(QUESTION, "a mango is yellow . yellow", False),
    Answer([{"role": "user", "content": QUESTION}], "a mango <is> blue ; มะม่วง", True),
    Answer(QUESTION, "yellow .", True),
]


def load(folder, **settings):
    return ReadyRewardModel.load(LabelerConfig(kind="reward-model", model=str(folder), **settings), tokens_per_batch=64)


def alone(model, *ids, **more):
    """The score of one row, by the model itself."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([*ids]), **more).logits.item()


def test_a_chat_model_reads_the_dialogue_that_its_template_writes(tmp_path):
    model, tokenizer = make_decoder(tmp_path / "rm")
    expected = []
    for prompt, completion, _ in ANSWERS:
        turns = [{"role": "user", "content": QUESTION}] if isinstance(prompt, str) else prompt
        written = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": completion}], return_dict=True)
        expected.append(alone(model, written["input_ids"]))
    assert len({round(score, 3) for score in expected}) == 4  # the first and the last are the same dialogue
    assert load(tmp_path / "rm").score_answers(ANSWERS) == pytest.approx(expected, abs=1e-5)
    assert load(tmp_path / "rm", dtype="bfloat16").score_answers(ANSWERS) == pytest.approx(expected, abs=0.2)


def test_a_model_without_a_template_reads_prompt_and_completion(tmp_path):
    """An answer that was cut off has no end token. The model knows no padding."""
    model, tokenizer = make_decoder(tmp_path / "rm", template=False, pad_token_id=None)
    ids = tokenizer(QUESTION)["input_ids"] + tokenizer("yellow .", add_special_tokens=False)["input_ids"]
    scores = load(tmp_path / "rm").score_answers([Answer(QUESTION, "yellow .", True), Answer(QUESTION, "yellow .", False)])
    assert scores == pytest.approx([alone(model, [*ids, tokenizer.eos_token_id]), alone(model, ids)], abs=1e-5)


def test_an_encoder_reads_two_texts(tmp_path):
    model, tokenizer = make_encoder(tmp_path / "rm")
    expected = []
    for _, completion, _ in ANSWERS:
        row = tokenizer(QUESTION, completion, return_tensors="pt")
        assert 1 in row["token_type_ids"]
        expected.append(alone(model, *row["input_ids"].tolist(), token_type_ids=row["token_type_ids"]))
    assert load(tmp_path / "rm").score_answers(ANSWERS) == pytest.approx(expected, abs=1e-5)
    row = tokenizer(QUESTION, "yellow [SEP]", split_special_tokens=True, return_tensors="pt")
    assert row["input_ids"][0].tolist().count(tokenizer.sep_token_id) == 2  # an answer cannot end itself
    expected = alone(model, *row["input_ids"].tolist(), token_type_ids=row["token_type_ids"])
    assert load(tmp_path / "rm").score_answers([Answer(QUESTION, "yellow [SEP]", True)]) == pytest.approx([expected], abs=1e-5)


def test_a_reward_model_of_a_run_gives_its_log_odds(backbone, tmp_path):
    """The scores of a run are shifted and scaled for PPO; what is labeled with are the differences that were trained."""
    scorer = make_of_a_run(backbone, tmp_path)
    answers = [*ANSWERS, Answer(QUESTION, "yellow .", False)]
    expected = [score * 2.0 + 0.5 for score in scorer.score_answers(answers)]
    assert load(tmp_path / "retrain").score_answers(answers) == pytest.approx(expected, abs=1e-4)
    assert load(tmp_path / "retrain", dtype="bfloat16").score_answers(answers) == pytest.approx(expected, abs=0.5)
    shutil.move(tmp_path / "base", tmp_path / "moved")
    with pytest.raises(UserError, match="the base that the adapter names does not exist") as refused:
        load(tmp_path / "retrain")
    assert refused.value.to_do == f"name both: labeler.model=BASE labeler.adapter={tmp_path / 'retrain'}"
    both = load(tmp_path / "moved", adapter=str(tmp_path / "retrain"))
    assert both.score_answers(answers) == pytest.approx(expected, abs=1e-4)


def test_an_adapter_on_a_reward_model(tmp_path):
    model, tokenizer = make_decoder(tmp_path / "rm")
    before = load(tmp_path / "rm").score_answers(ANSWERS[:2])
    expected = make_adapter(model, tmp_path / "adapter", base=tmp_path / "rm")
    ids = tokenizer.apply_chat_template([*ANSWERS[0].prompt, {"role": "assistant", "content": "yellow ."}], return_dict=True)["input_ids"]
    found = load(tmp_path / "rm", adapter=str(tmp_path / "adapter")).score_answers(ANSWERS[:2])
    assert found[0] == pytest.approx(alone(expected, ids), abs=1e-5) and abs(found[0] - before[0]) > 1e-3
    named = load(tmp_path / "adapter").score_answers(ANSWERS[:2])  # its config names the model
    assert named == found


@pytest.mark.parametrize(("layers", "width"), [(1, 32), (3, 32), (2, 16)])
def test_an_adapter_of_another_base_is_refused(tmp_path, layers, width):
    """PEFT would leave out layers that are too many, and take random numbers for those that are missing."""
    make_decoder(tmp_path / "rm")
    other, _ = make_decoder(tmp_path / "other", num_hidden_layers=layers, hidden_size=width)
    make_adapter(other, tmp_path / "adapter", base=tmp_path / "other")
    with pytest.raises(UserError, match="the adapter does not fit the model .*rm: ") as refused:
        load(tmp_path / "rm", adapter=str(tmp_path / "adapter"))
    assert refused.value.to_do == "give the adapter's own base as labeler.model"


def test_an_adapter_says_which_base_it_is_for(tmp_path):
    model, _ = make_decoder(tmp_path / "rm")
    make_adapter(model, tmp_path / "adapter", base=tmp_path / "there" / ".." / "rm")
    (tmp_path / "there").mkdir()
    shutil.copytree(tmp_path / "rm", tmp_path / "copy")
    adapter = str(tmp_path / "adapter")
    same, copied = (find_model(LabelerConfig(kind="reward-model", model=str(tmp_path / name), adapter=adapter)) for name in ("rm", "copy"))
    assert same.other_base is None and copied.other_base == str(tmp_path / "there" / ".." / "rm")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_decoder(folder / "good")
    make_decoder(folder / "three", labels=3)
    make_decoder(folder / "two", labels=2)
    make_decoder(folder / "lm", kind="LlamaForCausalLM")
    for name in ("empty", "pickled", "no-tokenizer", "not-safetensors", "headless"):
        shutil.copytree(folder / "good", folder / name)
    (folder / "empty" / "model.safetensors").unlink()
    (folder / "pickled" / "model.safetensors").rename(folder / "pickled" / "pytorch_model.bin")
    for path in (folder / "no-tokenizer").glob("tokenizer*"):
        path.unlink()
    shutil.copy(folder / "lm" / "model.safetensors", folder / "headless" / "model.safetensors")
    for name, task in (("policy", "CAUSAL_LM"), ("adapter", "SEQ_CLS"), ("astray", "SEQ_CLS")):
        (folder / name).mkdir()
        base = folder / ("good" if name != "astray" else "gone")
        (folder / name / "adapter_config.json").write_text(json.dumps({"task_type": task, "base_model_name_or_path": str(base)}))
    (folder / "policy" / "adapter_model.safetensors").write_bytes(b"")
    (folder / "astray" / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return folder


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("three", "has 3 labels, and a reward is one number"),
        ("two", "has 2 labels"),
        ("lm", r"gives no scores \(LlamaForCausalLM\)"),
        ("empty", "there are no weights in .*empty"),
        ("pickled", "there are no weights in .*pickled"),
        ("no-tokenizer", "there is no tokenizer in .*no-tokenizer"),
        ("policy", "is for CAUSAL_LM, and gives no scores"),
        ("adapter", "there is no adapter_model.safetensors"),
        ("astray", "the base that the adapter names does not exist: .*gone"),
        ("nowhere", "there is no folder .*nowhere"),
        ("good/config.json", "the reward model is a file"),
        ("", "there is no config.json in"),
    ],
)
def test_what_gives_no_score_is_refused_by_its_files(folders, name, what):
    with pytest.raises(UserError, match=what) as refused:
        check_ready_model(LabelerConfig(kind="reward-model", model=str(folders / name)), "here")
    assert refused.value.where == "here"


def test_weights_that_are_missing_are_not_made_up(folders):
    """Only loading tells that: transformers would take a random head."""
    with pytest.raises(UserError, match=r"lacks weights, so its scores would be random: score.weight"):
        load(folders / "headless")


def test_a_file_that_is_torn_is_refused(folders, tmp_path):
    shutil.copytree(folders / "good", tmp_path / "torn")
    weights = tmp_path / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="the reward model cannot be loaded"):
        load(tmp_path / "torn")


def test_answers_that_are_too_long_have_no_score(tmp_path):
    model, tokenizer = make_decoder(tmp_path / "rm", positions=40)
    long = Answer(QUESTION, "yellow . " * 12, True)
    found = load(tmp_path / "rm")
    short, none = found.score_answers([ANSWERS[1], long])
    assert math.isfinite(short) and math.isnan(none)
    assert found.can_read(ANSWERS[1]) and not found.can_read(long)
    tokenizer.model_max_length = 5
    tokenizer.save_pretrained(tmp_path / "rm")
    assert not load(tmp_path / "rm").can_read(ANSWERS[1])


@pytest.mark.parametrize("kind", ["Roberta", "MPNet"])
def test_the_window_of_models_that_count_positions_after_the_pad_token(tmp_path, kind):
    """Of 20 positions the first two are not used, since the pad token has number 1. [CLS] and two [SEP] leave 15 words."""
    padding = {"pad_token_id": 1, "max_position_embeddings": 20} | ({"type_vocab_size": 2} if kind == "Roberta" else {})
    model, tokenizer = make_encoder(tmp_path / "rm", kind=kind, **padding)
    found = load(tmp_path / "rm")
    assert found.window == 18
    fits, too_long = (Answer("what is a mango ?", "yellow " * number, True) for number in (10, 11))
    row = tokenizer(fits.prompt, fits.completion, return_tensors="pt")
    assert row["input_ids"].shape == (1, 18)
    more = {"token_type_ids": row["token_type_ids"]} if kind == "Roberta" else {}
    score, none = found.score_answers([fits, too_long])
    assert score == pytest.approx(alone(model, *row["input_ids"].tolist(), **more), abs=1e-5) and math.isnan(none)


def test_a_template_that_refuses_a_dialogue(tmp_path):
    _, tokenizer = make_decoder(tmp_path / "rm")
    tokenizer.chat_template = "{{ raise_exception('no system turn') }}"
    tokenizer.save_pretrained(tmp_path / "rm")
    with pytest.raises(UserError, match="cannot write a dialogue of the run: no system turn"):
        load(tmp_path / "rm").score_answers(ANSWERS)


def test_pickles_are_not_read_even_where_the_files_are_not_looked_at(folders, monkeypatch):
    """As with a model from the hub, whose files nobody checks before."""
    monkeypatch.setattr("rewards.ready_model.check_ready_model", lambda config, where: None)
    with pytest.raises(UserError, match="the reward model cannot be loaded"):
        load(folders / "pickled")


def test_what_is_no_safetensors_file(tmp_path):
    for content in (b"", b"\x05", b"\xff" * 20, (4).to_bytes(8, "little") + b"[12]"):
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="is not a safetensors file"):
            tensor_shapes(tmp_path / "x.safetensors")


def test_the_folders_of_a_model(folders):
    adapter = find_model(LabelerConfig(kind="reward-model", model=str(folders / "adapter")))
    assert adapter and adapter.folders == [folders / "good", folders / "adapter"] and adapter.tokenizer == str(folders / "good")
    assert find_model(LabelerConfig(kind="reward-model", model="org/name")).folders == []
    assert find_model(LabelerConfig()) is None


def test_scores_of_any_scale_are_probabilities():
    assert win_probability(-5000.0) == pytest.approx(0.0) and win_probability(5000.0) == 1.0


def test_the_memory_of_a_model_follows_from_its_files(tmp_path):
    model, _ = make_decoder(tmp_path / "rm")
    numbers = sum(parameter.numel() for parameter in model.parameters())
    adapted = make_adapter(model, tmp_path / "adapter", base=tmp_path / "rm")
    added = sum(parameter.numel() for parameter in adapted.parameters()) - numbers
    assert weight_bytes(LabelerConfig(kind="reward-model", model=str(tmp_path / "rm"))) == 4 * numbers
    assert weight_bytes(LabelerConfig(kind="reward-model", model=str(tmp_path / "adapter"))) == 4 * (numbers + added)
    assert weight_bytes(LabelerConfig(kind="reward-model", model=str(tmp_path / "rm"), dtype="bfloat16")) == 2 * numbers
    assert weight_bytes(LabelerConfig(kind="reward-model", model="org/name")) == weight_bytes(LabelerConfig()) == 0
