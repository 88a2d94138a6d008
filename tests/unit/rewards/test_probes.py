"""Metamorphic probes: the variants of a prompt, and what two answers are compared by."""

import pytest

from configs.schema import GenerationConfig
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from policies.responses import Response
from policies.tokenization import encode_completion
from rewards import sampling
from rewards.comparisons import Sample
from rewards.probes import VARIANTS, polite_particle, probe, question_mark, trailing_space, vary
from rewards.sampling import Sampler

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
