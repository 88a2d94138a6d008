"""The card of a promoted model: what Hugging Face reads of it, and that a name in it stays a name."""

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from configs import load_config
from configs.schema import BaseConfig
from loop import __version__
from loop.promotion.base import BaseFacts, base_facts, licence_in
from loop.promotion.card import Promoted, card
from loop.promotion.choosing import Choice
from loop.store.journal import Event, fold
from policies.named_bases import SMOLLM2
from tests.unit.loop.promotion.test_choosing import made, summary

METRICS = {
    "gold": summary(3.0),
    "win_rate": {"sft": summary(0.75)},
    "defects": {"repetition": 0.125},
    "overoptimization": {"verdict": "none", "signs": {}},
    "best_of": {"chosen": summary(4.0)},
}
SOURCE = {"name": "pairs", "path": "pairs.jsonl", "licence": "cc-by-4.0", "rows": 9, "pairs": 7, "prompts": 7, "answers": 0}
PROMOTED = Promoted(
    run="mine",
    config=load_config(overrides=["base=some/model", "generation.stop_strings=['END']"]),
    config_digest="c0ffee",
    state=made({"gold": summary(2.0)}, {}, METRICS),
    choice=Choice(1, ["Round 1 was named on the command line."]),
    base=BaseFacts("some/model", "some/model at commit abc", "apache-2.0"),
    sources=[SOURCE, SOURCE | {"name": "hub", "path": "some/pairs", "licence": ""}],
    found={"end_tokens": ["<|end|>"], "has_template": True, "rounding": 0.25, "parameters": 1},
    is_adapter=False,
)


def test_hugging_face_reads_the_header():
    data = ModelCard(card(PROMOTED)).data
    assert (data.base_model, data.library_name, data.pipeline_tag, data.license) == (
        "some/model",
        "transformers",
        "text-generation",
        "apache-2.0",
    )
    assert data.datasets == ["some/pairs"] and data.tags == ["rlhf", "ppo"] and data.to_dict()["base_model_relation"] == "finetune"
    adapter = ModelCard(card(replace(PROMOTED, is_adapter=True, found=PROMOTED.found | {"rounding": None}))).data
    assert adapter.library_name == "peft" and adapter.to_dict()["base_model_relation"] == "adapter"


def test_the_card_says_what_was_measured_and_what_it_comes_from():
    """3.0 with the error 0.1 has the interval 2.80 to 3.20. A share has none."""
    text = card(PROMOTED)
    assert "| 3.00 | 2.80 to 3.20 | 100 |" in text and "| 0.75 | 0.55 to 0.95 | 100 |" in text and "| 0.12 | - | - |" in text
    assert "overoptimization" not in text and "rounding to it has changed them by 25%" in text
    assert f"loop {__version__}" in text and "c0ffee" in text and "stop_strings=['END'], tokenizer=tokenizer" in text
    assert "| pairs | cc-by-4.0 | 9 | 7 | 7 | 0 |" in text and "| hub | not known | 9 |" in text


def test_held_out_comparisons_are_not_called_training_data():
    """Of 20 comparisons, 4 only judge the reward model. Those of round 1 come after its policy."""
    labels = [Event(event="stage_committed", stage="label", round=r, metrics={"comparisons": 20, "heldout": 4}) for r in (0, 1)]
    state = made({}, {}, {})
    for r, event in enumerate(labels):
        state.rows(r)["label"] = fold([event]).stage("label", r)
    assert "16 comparisons of the policies' answers in the rounds before" in card(replace(PROMOTED, state=state))


def test_pairs_are_those_that_the_policy_has_read():
    """By way of another language, the stage `pivot` leaves pairs out that `filter` has kept."""
    stages = {
        name: fold([Event(event="stage_committed", stage=name, metrics={"pairs": pairs})]) for name, pairs in (("filter", 9), ("pivot", 7))
    }
    state = made({}, {}, {})
    state.setup |= {name: made_it.stage(name, None) for name, made_it in stages.items()}
    by_way = load_config(overrides=["respond=pivot"])
    assert "\n9 original pairs." in card(replace(PROMOTED, state=state, config=load_config()))
    assert "\n7 original pairs." in card(replace(PROMOTED, state=state, config=by_way))


def test_what_is_not_known_is_said_or_left_out():
    alone = replace(PROMOTED, base=BaseFacts(None, "a model in a folder"), sources=[], state=made({}, {}, {}))
    text = card(alone)
    data = ModelCard(text).data
    assert data.base_model is None and data.license is None and data.datasets is None
    assert "The license of the base is not known here." in text and "This policy has not been evaluated." in text
    sft = card(replace(PROMOTED, choice=Choice(None, [])))
    assert "No reward model has trained it." in sft and "| 2.00 | 1.80 to 2.20 | 100 |" in sft


def test_a_name_cannot_become_markup():
    """A table has as many columns as its head, whatever a source is called, and no tag of HTML gets through."""
    source = SOURCE | {"name": "a|b\n<script>x</script> [l](javascript:y) `c`"}
    config = load_config(overrides=["generation.stop_strings=['</answer>']"])
    text = card(replace(PROMOTED, sources=[source], choice=Choice(1, ["<img src=x>"]), config=config))
    (row,) = [line for line in text.splitlines() if line.startswith("| a")]
    code, after = text.split("```")[1:]
    assert "</answer>" in code and "</answer>" not in after and "&lt;/answer&gt;" in after
    assert row.replace("\\|", "").count("|") == 7 and "<script>" not in text and "<img" not in text and "[l](" not in text


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: mit\n---\n# x", "mit"),
        ("---\nlicense:\n- mit\n---\n", ""),
        ("# no header", ""),
        ("---\nlicense: mit\n", ""),
        ("---\n: [\n---\n", ""),
        ("", ""),
    ],
)
def test_the_licence_in_a_card(tmp_path, text, licence):
    (tmp_path / "README.md").write_text(text)
    assert licence_in(tmp_path / "README.md") == licence and licence_in(tmp_path / "none.md") == ""


def test_what_is_known_about_a_base(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    folder = base_facts(BaseConfig(model=str(tmp_path), quantization="nf4"), None)
    assert folder.hub_id is None and folder.licence == "mit" and "NF4" in folder.text and str(tmp_path) not in folder.text
    named = base_facts(BaseConfig(model=SMOLLM2.name), None)
    assert (named.hub_id, named.licence) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    hub = base_facts(BaseConfig(model="nobody/has-this"), "abc")
    assert hub == BaseFacts("nobody/has-this", "nobody/has-this at commit abc")
    assert base_facts(BaseConfig(), None).hub_id is None
