"""Entropies and their gradients are those of the whole logits, however few of them exist at one time."""

import pytest
import torch
import transformers

from policies.fast import entropies
from policies.fast.entropies import token_entropies
from tests.unit.policies.fast.test_model import SIZES, make_backbone

GROUPED = SIZES | {"num_key_value_heads": 2, "pad_token_id": 0}


@pytest.mark.parametrize(
    "config",
    [transformers.LlamaConfig(**GROUPED), transformers.Gemma2Config(**GROUPED, head_dim=8, final_logit_softcapping=2.0)],
    ids=["llama", "gemma2, capped"],
)
def test_entropies_and_gradients(config, monkeypatch):
    """7 states are taken 2 at a time, because there is room for two times the vocabulary."""
    monkeypatch.setattr(entropies, "CHUNK", 2 * config.vocab_size)
    model = make_backbone(config).fast
    states = torch.randn(7, config.hidden_size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.linspace(-1, 1, 7)
    found = token_entropies(model, states, 0.7)
    (slopes,) = torch.autograd.grad((weights * found).sum(), states)
    expected = torch.distributions.Categorical(logits=model.logits(states) / 0.7).entropy()
    (expected_slopes,) = torch.autograd.grad((weights * expected).sum(), states)
    assert torch.allclose(found, expected, atol=1e-5) and torch.allclose(slopes, expected_slopes, atol=1e-5)
    assert slopes.abs().max() > 1e-2
