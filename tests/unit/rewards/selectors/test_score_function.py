"""A selector as the score function of PPO: each response has the selector's score, whatever else is in the batch."""

import pytest
import torch

from policies.responses import EncodedPrompt, Response, make_records
from policies.tokenization import encode_completion, encode_prompt
from rewards.comparisons import Answer
from rewards.scoring import Scorer
from rewards.selectors import Tools
from rewards.selectors.features import FeaturesSelector
from rewards.selectors.score_function import as_score_function, centred, normalized
from tests.conftest import perturb

TEXTS = ["yellow", "It is a green one.", "yes"]


@pytest.fixture
def scorer(backbone):
    backbone.add_adapter("reward")
    perturb(backbone, "reward")
    return Scorer(backbone, "reward", torch.linspace(-1, 1, backbone.hidden_size)[None])


@pytest.fixture
def records(backbone):
    """Three responses to one prompt."""
    prompt = EncodedPrompt(encode_prompt(backbone.tokenizer, "mango?"), "mango?", "p", "web")
    responses = [Response(encode_completion(backbone.tokenizer, text), True) for text in TEXTS]
    return make_records(backbone.tokenizer, [prompt] * len(TEXTS), responses)


def test_a_response_has_the_weighted_sum_of_its_own_features(backbone, scorer, records):
    """Twice the reward model's score, minus half a point for each token. The first response has the same score alone as in the batch."""
    weights = {"reward": 2.0, "length": -0.5}
    score = as_score_function(FeaturesSelector(Tools(backbone, scorer, {}), ["reward", "length"], 1.0, weights, {}))
    rewards = scorer.score_answers([Answer("mango?", text, True) for text in TEXTS])
    expected = [2.0 * reward - 0.5 * len(record.token_ids) for reward, record in zip(rewards, records, strict=True)]
    assert torch.as_tensor(score(records)).tolist() == pytest.approx(expected, abs=1e-4)
    assert torch.as_tensor(score(records[:1])).tolist() == pytest.approx(expected[:1], abs=1e-4)


def test_zero_is_the_mean_of_the_reference(records):
    """The reference responses have 1, 2 and 3, so 2 is taken from every score, and the scale stays."""
    score = centred(lambda rows: [1.0, 2.0, 3.0][: len(rows)], records)
    assert torch.as_tensor(score(records)).tolist() == [-1.0, 0.0, 1.0]


def test_the_reference_has_mean_zero_and_deviation_one(records):
    """1, 2 and 6 have the mean 3 and the sample variance (4 + 1 + 9) / 2 = 7. Equal scores are divided by 1e-6 instead of by 0."""
    score = normalized(lambda rows: [1.0, 2.0, 6.0][: len(rows)], records)
    assert torch.as_tensor(score(records)).tolist() == pytest.approx([-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5])
    assert torch.as_tensor(normalized(lambda rows: [5.0] * len(rows), records)(records)).tolist() == [0.0, 0.0, 0.0]
