"""The features of candidates, checked against plain transformers and by hand, and the weights that are fitted on them."""

import math

import numpy as np
import pytest
import torch

from policies.tokenization import encode_prompt
from rewards.comparisons import Answer, Comparison
from rewards.rules import RULES
from rewards.scoring import Scorer
from rewards.selectors import Candidates, Tools, features
from rewards.selectors.examples import Example, merge, read_examples, write_examples
from rewards.selectors.features import FEATURES, FeaturesSelector, fit_weights, make_examples, measure
from tests.conftest import perturb

ALL = list(FEATURES)
TEMPERATURE = 0.7


def group(*texts, prompt="mango?", finished=True):
    return Candidates("p", prompt, "", [Answer(prompt, text, finished) for text in texts])


@pytest.fixture
def tools(backbone):
    for name in ("sft", "reward"):
        backbone.add_adapter(name)
        perturb(backbone, name, seed=len(name))
    head = torch.linspace(-1, 1, backbone.hidden_size)[None]
    return Tools(backbone, Scorer(backbone, "reward", head), RULES)


def plain_logprobs(backbone, answer, adapter):
    """Token by token, from transformers' own forward pass over one sequence."""
    prompt = encode_prompt(backbone.tokenizer, answer.prompt)
    completion = backbone.tokenizer(answer.completion)["input_ids"] + [backbone.tokenizer.eos_token_id] * answer.finished
    with backbone.role(adapter), torch.no_grad():
        logits = backbone.causal_lm(torch.tensor([prompt + completion])).logits[0]
    logprobs = torch.log_softmax(logits / TEMPERATURE, -1)
    return [logprobs[len(prompt) + i - 1, token].item() for i, token in enumerate(completion)]


def test_log_probs_are_those_of_transformers(tools, backbone):
    """The text has the phrases "It is yellow" and "It is sweet". The tiny tokenizer gives a token a letter, so the first has 12 tokens."""
    answer = Answer("mango?", "It is yellow. It is sweet.", True)
    found = measure(tools, [group(answer.completion), group("a")], ["logprobs"], TEMPERATURE)[0][0]
    sft, base = plain_logprobs(backbone, answer, "sft"), plain_logprobs(backbone, answer, None)
    first = len(backbone.tokenizer("It is yellow")["input_ids"])
    expected = {
        "sft_mean": sum(sft) / len(sft),
        "sft_min": min(sft),
        "sft_first_phrase": sum(sft[:first]) / first,
        "base_mean": sum(base) / len(base),
        "base_min": min(base),
    }
    assert first < len(sft) and found == pytest.approx(expected, abs=1e-4)
    assert found["sft_mean"] != pytest.approx(found["base_mean"], abs=1e-3)


def test_a_completion_without_tokens_has_the_end_token_only(tools, backbone):
    cut_off = measure(tools, [group("", finished=False)], ALL, TEMPERATURE)[0][0]
    ended = plain_logprobs(backbone, Answer("mango?", "", True), "sft")
    assert len(ended) == 1 and cut_off["length"] == 1.0 and cut_off["log_characters"] == 0.0
    assert cut_off["sft_mean"] == cut_off["sft_min"] == cut_off["sft_first_phrase"] == pytest.approx(ended[0], abs=1e-4)
    assert cut_off["rule_empty"] == cut_off["rule_missing_end"] == 1.0
    assert cut_off["agreement_phrases"] == cut_off["agreement_answer"] == 0.0


def test_agreement_by_hand(tools):
    """Phrases: {yellow, sweet}, {yellow}, {yellow, sweet}, {}. The first shares 1/2, 2/2 and 0/2 with the others, and its first phrase with
    two of three. The last has no phrase, so it agrees with nobody."""
    four = group("It is yellow. It is sweet.", "It is yellow.", "It is yellow. It is sweet.", "")
    found = measure(tools, [four], ["agreement"], TEMPERATURE)[0]
    assert [x["agreement_phrases"] for x in found] == pytest.approx([1.5 / 3, 1.0 / 3, 1.5 / 3, 0.0], abs=1e-6)
    assert [x["agreement_answer"] for x in found] == pytest.approx([2 / 3, 2 / 3, 2 / 3, 0.0], abs=1e-6)


def test_rewards_rules_and_lengths(tools):
    texts = ("It is yellow. It is yellow.", "ผลไม้")
    found = measure(tools, [group(*texts)], ["reward", "rules", "length"], TEMPERATURE)[0]
    assert [x["reward"] for x in found] == pytest.approx(tools.reward.score_answers(group(*texts).answers), abs=1e-5)
    assert [x["rule_repetition"] for x in found] == [1.0, 0.0] and [x["rule_wrong_language"] for x in found] == [0.0, 1.0]
    assert {name for name in found[0] if name.startswith("rule_")} == {f"rule_{name}" for name in RULES}
    assert [x["log_characters"] for x in found] == pytest.approx([math.log(28), math.log(6)], abs=1e-6)
    assert found[0]["length"] == len(tools.backbone.tokenizer(texts[0])["input_ids"]) + 1


def test_without_features_all_candidates_score_the_same(tools):
    """With `select.features: [agreement]`, a selector without agreement has none."""
    selector = FeaturesSelector(tools, [], TEMPERATURE, {}, {})
    assert selector.score([group("a", "b"), group("c")]) == [[0, 0], [0]]
    assert selector.reasons(group("a", "b")) == [{}, {}]


def test_nothing_is_measured_twice(tools, monkeypatch):
    passes = []
    real = features.token_logprobs
    monkeypatch.setattr(features, "token_logprobs", lambda tools, rows, *rest: passes.append(len(rows)) or real(tools, rows, *rest))
    one, other = group("a", "b"), group("c")
    once = measure(tools, [one], ALL, TEMPERATURE)
    assert measure(tools, [other, one], ALL, TEMPERATURE)[1] == once[0]
    assert passes == [2, 2, 1, 1]  # under SFT and base: the first group, then only the second


# -- weights --------------------------------------------------------------------------------------------------------------


def synthetic(weights, number, seed=0, **options):
    """Comparisons decided by a Bradley-Terry model with known weights."""
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(number):
        one, other = ({name: float(x) for name, x in zip(weights, rng.normal(size=len(weights)), strict=True)} for _ in range(2))
        difference = sum(weights[name] * (one[name] - other[name]) for name in weights)
        chosen, rejected = (one, other) if rng.random() < 1 / (1 + math.exp(-difference)) else (other, one)
        examples.append(Example(f"p{i}", 0, False, chosen, rejected))
    return examples


def test_known_weights_are_found():
    """A difference of two normal numbers has variance 2. The information of an example about a weight is at least 2 E[p(1-p)] > 0.15
    here, so 4000 examples give a standard error below 1 / sqrt(600) = 0.041; four of them are allowed."""
    true = {"a": 1.0, "b": -0.5, "c": 0.0}
    weights, effects = fit_weights(synthetic(true, 4000))
    assert weights == pytest.approx(true, abs=0.16)
    assert effects == pytest.approx({name: weight * 2**0.5 for name, weight in weights.items()}, rel=0.05, abs=1e-3)


def test_weights_are_for_the_unit_of_the_feature():
    """The same comparisons in cents instead of euros: a hundredth of the weight, the same effect."""
    euros = synthetic({"price": -1.0}, 300)
    cents = [Example(e.prompt_id, 0, False, {"price": 100 * e.chosen["price"]}, {"price": 100 * e.rejected["price"]}) for e in euros]
    (in_euros, effect), (in_cents, same) = fit_weights(euros), fit_weights(cents)
    assert in_cents["price"] * 100 == pytest.approx(in_euros["price"], rel=1e-6) and effect == pytest.approx(same, rel=1e-6)


def test_the_order_of_the_two_sides_does_not_matter():
    """If the chosen completion always is longer by 2, the standard deviation around 0 is 2, and there is something to learn."""
    weights, _ = fit_weights([Example(f"p{i}", 0, False, {"length": 5.0, "same": 1.0}, {"length": 3.0, "same": 1.0}) for i in range(20)])
    assert weights["length"] > 0.5 and weights["same"] == 0.0


def test_without_examples_all_weights_are_zero():
    assert fit_weights([]) == ({}, {})


def test_a_feature_that_only_some_rounds_had_is_fitted():
    older = synthetic({"a": 1.0}, 200)
    newer = synthetic({"a": 1.0, "b": -1.0}, 200, seed=1)
    weights, _ = fit_weights([*older, *newer])
    assert weights["a"] > 0.3 and weights["b"] < -0.3


def test_nothing_is_fitted_on_held_out_comparisons():
    with pytest.raises(AssertionError):
        fit_weights([Example("p", 0, True, {"a": 1.0}, {"a": 0.0})])


def test_scores_are_weighted_sums_and_reasons_add_up_to_them(tools):
    weights = {"length": 0.5, "log_characters": -1.0, "rule_mine": 3.0}  # the last one is not measured here
    selector = FeaturesSelector(tools, ["length"], TEMPERATURE, weights, weights)
    three = group("a", "bc", "")
    scores = selector.score([three])[0]
    by_hand = [0.5 * 2 - math.log(2), 0.5 * 3 - math.log(3), 0.5 * 1]  # tokens count the end
    assert scores == pytest.approx(by_hand, abs=1e-5)
    for score, reasons in zip(scores, selector.reasons(three), strict=True):
        assert sum(reasons.values()) == pytest.approx(score - sum(scores) / 3, abs=1e-9) and "rule_mine" not in reasons


# -- examples -------------------------------------------------------------------------------------------------------------


def test_a_comparison_becomes_an_example(tools, tmp_path):
    rows = [Comparison("p", "mango?", "bb", "a", generation=3, heldout=True), Comparison("p", "mango?", "a", "bb", tie=True)]
    examples = make_examples(tools, [group("a", "bb", "c")], rows, ["length"], TEMPERATURE)
    assert len(examples) == 1 and (examples[0].generation, examples[0].heldout) == (3, True)
    assert examples[0].chosen["log_characters"] == pytest.approx(math.log(3), abs=1e-6)
    assert examples[0].rejected["length"] == 2.0
    write_examples(tmp_path, examples)
    assert read_examples(tmp_path) == examples and read_examples(tmp_path / "nothing") == []


def test_the_newest_examples_are_kept_and_held_out_ones_for_one_round():
    def rows(generation):
        return [Example(f"p{i}", generation, i == 0, {}, {}) for i in range(4)]

    merged = merge(rows(0), rows(1), max_examples=4)
    assert [(e.generation, e.prompt_id) for e in merged] == [(0, "p3"), (1, "p1"), (1, "p2"), (1, "p3"), (1, "p0")]
    assert [e.heldout for e in merged] == [False] * 4 + [True]
