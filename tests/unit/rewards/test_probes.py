"""Metamorphic probes: the variants of a prompt, and what two answers are compared by."""

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from configs.schema import GenerationConfig, LoraSection
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from policies.responses import Response
from policies.tokenization import encode_completion
from rewards import sampling
from rewards.comparisons import Sample
from rewards.probes import VARIANTS, polite_particle, probe, question_mark, trailing_space, vary
from rewards.sampling import Sampler
from tests.conftest import make_causal_lm

WHY = "ท้องฟ้าเป็นสีม่วงเพราะอะไร"


@pytest.mark.parametrize(
    ("variant", "text", "expected"),
    [
        (question_mark, WHY, f"{WHY}?"),
        (question_mark, f"{WHY} ?", WHY),
        (question_mark, "Why?", "Why"),
        (trailing_space, "Why?", "Why? "),
        (trailing_space, "Why? ", "Why?"),
        (polite_particle, WHY, f"{WHY}ครับ"),
        (polite_particle, f"{WHY}?", f"{WHY}ครับ?"),
        (polite_particle, f"{WHY}ครับ", WHY),
        (polite_particle, f"{WHY}คะ?", f"{WHY}?"),
        (polite_particle, "Why?", None),
    ],
)
def test_each_variant(variant, text, expected):
    assert variant(text) == expected


def test_only_the_last_turn_is_written_differently():
    messages = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Why?"}]
    assert vary(messages, "question_mark") == [*messages[:2], {"role": "user", "content": "Why"}]
    assert vary("Why?", "polite_particle") is None


@pytest.mark.parametrize(("variant", "text"), [("question_mark", " ?"), ("polite_particle", "ครับ"), ("trailing_space", " ")])
def test_a_prompt_is_never_changed_into_none(variant, text):
    assert vary(text, variant) is None and vary([{"role": "user", "content": text}], variant) is None


def test_a_form_that_is_too_long_for_the_model_is_left_out():
    """GPT-2 has a vector for each of 20 positions. An answer takes 10, and the prompt 8: with ครับ it has more than 10 tokens."""
    tokenizer = make_causal_lm()[1]
    form = GPT2Config(vocab_size=len(tokenizer), n_positions=20, n_embd=16, n_layer=1, n_head=2, eos_token_id=tokenizer.eos_token_id)
    backbone = Backbone(GPT2LMHeadModel(form), tokenizer, LoraSection(rank=2))
    backbone.add_adapter("policy")
    text = "มะม่วงสีมะม่วงสี"
    assert len(tokenizer(text)["input_ids"]) == 8 and len(tokenizer(f"{text}ครับ")["input_ids"]) > 10
    sampler = Sampler(backbone, GenerationConfig(max_new_tokens=10), Checkpoints(), report_nothing)
    found = probe(sampler, "policy", [Sample("s", "p", text, "", True, 0, 0)], lambda samples: [0.0] * len(samples)).found
    assert [one.variant for one in found] == ["question_mark", "trailing_space"]


def test_answers_are_compared_prompt_by_prompt(backbone, monkeypatch):
    """The policy answers by the most likely token. It says "one two" to each prompt, and "one three" to one that ends in a space.

    The two share one word of three. The score is the length of the answer in characters, so the scores are 2 apart.
    """

    def respond(backbone, adapter, prompts, seeds, config, *rest):
        assert config.top_k == 1
        ends = [backbone.tokenizer.decode(ids).endswith(" ") for ids in prompts]
        return [Response(encode_completion(backbone.tokenizer, "one three" if end else "one two"), True) for end in ends]

    monkeypatch.setattr(sampling, "generate_sharded", respond)
    asked = [Sample(f"s{i}", f"p{i}", text, "", True, 0, 0) for i, text in enumerate(("Why?", WHY))]
    found = probe(
        Sampler(backbone, GenerationConfig(), Checkpoints(), report_nothing), "policy", asked, lambda s: [len(x.completion) for x in s]
    )
    summary = found.summary()
    assert set(summary["probe_agreement"]) == set(VARIANTS)
    means = {name: {variant: row["mean"] for variant, row in rows.items()} for name, rows in summary.items()}
    same = {"question_mark": 1.0, "polite_particle": 1.0}
    assert means["probe_agreement"] == same | {"trailing_space": 0.0}
    assert means["probe_similarity"] == same | {"trailing_space": pytest.approx(1 / 3)}
    assert means["probe_score_gap"] == dict.fromkeys(same, 0.0) | {"trailing_space": 2.0}
    assert {variant: row["count"] for variant, row in summary["probe_agreement"].items()} == {
        "question_mark": 2,
        "trailing_space": 2,
        "polite_particle": 1,
    }
    row = next(row for row in found.rows() if row["variant"] == "trailing_space")
    assert (row["prompt"], row["changed_prompt"], row["changed_completion"]) == ("Why?", "Why? ", "one three")
