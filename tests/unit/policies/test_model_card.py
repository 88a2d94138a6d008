"""Common libraries load an adapter that was copied to another place: they find base, tokenizer and weights without a network."""

import json
import re
import shutil

import pytest
import torch

from configs.schema import BaseConfig, LoraSection
from loop.store import artifacts
from policies.backbone import Backbone
from policies.model_card import WHAT, write_card
from policies.tokenization import decode_completion, encode_prompt
from rewards.scoring import Scorer, encode_pair
from tests.conftest import make_causal_lm, perturb
from tests.forked import printed_by

QUESTION = [{"role": "user", "content": "What colour is a mango?"}]


@pytest.fixture
def backbone(tmp_path):
    model, tokenizer = make_causal_lm()
    model.generation_config.do_sample = False
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return Backbone.load(str(tmp_path / "base"), BaseConfig(model=str(tmp_path / "base")), LoraSection(rank=4))


def code_of(folder):
    return re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]


def test_the_cards_code_and_a_pipeline_generate_what_we_would(backbone, tmp_path):
    """With greedy decoding, three programs must give the same text: ours, the card's, and transformers' pipeline."""
    backbone.add_adapter("policy")
    perturb(backbone, "policy")
    folder = tmp_path / "policy"
    backbone.save_adapter("policy", folder)
    write_card(folder, backbone, "policy", 0)
    prompt = encode_prompt(backbone.tokenizer, QUESTION)
    ids = list(prompt)
    with torch.no_grad(), backbone.role("policy"):
        for _ in range(32):
            ids.append(int(backbone.causal_lm(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == backbone.tokenizer.eos_token_id:
                break
    expected = decode_completion(backbone.tokenizer, ids[len(prompt) :])
    with torch.no_grad(), backbone.role(None):  # the base alone would continue differently
        assert int(backbone.causal_lm(torch.tensor([prompt])).logits[0, -1].argmax()) != ids[len(prompt)]
    assert printed_by(code_of(folder), folder) == expected + "\n"
    pipeline = f"""
from transformers import pipeline
ask = pipeline("text-generation", model={str(folder)!r})
print(ask({QUESTION!r}, max_new_tokens=32, return_full_text=False)[0]["generated_text"])
"""
    assert printed_by(pipeline, tmp_path) == expected + "\n"


@pytest.mark.parametrize("padding", ["pad token", "end token"])
def test_the_cards_code_gives_a_reward_models_scores(backbone, tmp_path, padding):
    """Also on a base that pads with the end token, as SmolLM2-Instruct does: the score is read at that token."""
    if padding == "end token":
        backbone.causal_lm.config.pad_token_id = backbone.tokenizer.eos_token_id
        backbone.causal_lm.save_pretrained(tmp_path / "base")
    backbone.add_adapter("reward")
    perturb(backbone, "reward")
    scorer = Scorer(backbone, "reward", torch.linspace(-1, 1, 32)[None], mean=0.5, std=2.0)
    folder = tmp_path / "reward"
    scorer.save(folder)
    write_card(folder, backbone, "retrain", 1)
    expected = scorer.score([encode_pair(backbone.tokenizer, QUESTION, "Yellow.", True)]).item()
    assert float(printed_by(code_of(folder), folder)) == pytest.approx(expected, abs=1e-4)


def test_a_base_without_chat_template_is_asked_as_plain_text(backbone, tmp_path):
    backbone.tokenizer.chat_template = None
    backbone.add_adapter("policy")
    backbone.save_adapter("policy", tmp_path / "policy")
    write_card(tmp_path / "policy", backbone, "policy", 0)
    assert len(printed_by(code_of(tmp_path / "policy"), tmp_path / "policy")) > 1
    assert r"\n\nHuman: What colour" in code_of(tmp_path / "policy")


def test_cards_tell_what_the_adapter_is(backbone, tmp_path):
    backbone.add_adapter("policy")
    for stage in WHAT:
        backbone.save_adapter("policy", tmp_path / stage)
        write_card(tmp_path / stage, backbone, stage, None if stage == "sft" else 2)
        text = (tmp_path / stage / "README.md").read_text(encoding="utf-8")
        assert text.startswith(f"---\nbase_model: {tmp_path / 'base'}\nlibrary_name: peft\n") and WHAT[stage] in text
        assert ("before round 0" if stage == "sft" else "in round 2") in text


def test_the_base_is_named_by_its_place(backbone, tmp_path):
    backbone.add_adapter("policy")
    backbone.save_adapter("policy", tmp_path / "policy")
    assert json.loads((tmp_path / "policy" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tmp_path / "base")
    backbone.name = "embedded"
    write_card(tmp_path / "policy", backbone, "policy", 0)
    assert "base_model: ../../setup/base\n" in (tmp_path / "policy" / "README.md").read_text(encoding="utf-8")


def test_in_two_places_only_the_name_of_the_base_differs(backbone, tmp_path):
    """Two runs in two folders each have their own embedded base. One file differs, and the committed artifacts have the same digest."""
    shutil.copytree(tmp_path / "base", tmp_path / "other")
    digests = []
    for place in ("base", "other"):
        here = Backbone.load(str(tmp_path / place), BaseConfig(), LoraSection(rank=4))
        here.add_adapter("policy", seed=1)
        payload = artifacts.begin(tmp_path / f"work-{place}", "k")
        here.save_adapter("policy", payload)
        write_card(payload, here, "policy", 0)
        digests.append(artifacts.commit(payload, tmp_path / f"policy-{place}", "k", {}, 0.0).digest)
    files = [{path.name: path.read_bytes() for path in (tmp_path / f"policy-{place}").iterdir()} for place in ("base", "other")]
    assert {name for name in files[0] if files[0][name] != files[1][name]} == {"adapter_config.json", "manifest.json"}
    assert digests[0] == digests[1]


def test_a_saved_tokenizer_is_the_same_with_and_without_a_network(backbone, tmp_path, monkeypatch):
    """transformers remembers `local_files_only` and would save it, so the digest of a stage would depend on HF_HUB_OFFLINE."""
    saved = []
    for offline in (True, False):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        folder = tmp_path / f"offline-{offline}"
        again = Backbone.load(str(tmp_path / "base"), BaseConfig(model=str(tmp_path / "base")), LoraSection(rank=4))
        again.add_adapter("policy")
        again.save_adapter("policy", folder)
        write_card(folder, again, "policy", 0)
        saved.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert saved[0] == saved[1]
