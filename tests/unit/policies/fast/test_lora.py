"""Fused LoRA agrees with finite differences and with PEFT's own layer."""

import pytest
import torch
from peft.tuners.lora import Linear

from policies.fast.batches import pad_batch
from policies.fast.lora import LoraLinear
from tests.conftest import perturb


@pytest.mark.parametrize("merge", [0, 10**9])
def test_gradients_equal_finite_differences(monkeypatch, merge):
    """Adapters are merged into the weights, or applied beside them."""
    monkeypatch.setattr("policies.fast.lora.MERGE", merge)
    torch.manual_seed(0)
    x, a, b = (torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in ((2, 3, 5), (2, 5), (4, 2)))
    weight, bias = torch.randn(4, 5, dtype=torch.double), torch.randn(4, dtype=torch.double)
    for offset in (bias, None):
        assert torch.autograd.gradcheck(lambda x, a, b, o=offset: LoraLinear.apply(x, [0.7], weight, o, a, b), (x, a, b))


def test_a_model_gives_pefts_states_and_gradients(backbone):
    backbone.add_adapter("policy")
    perturb(backbone, "policy")
    batch = pad_batch([[5, 6, 7], [8]], [[9, 10], [11, 12, 13]], 0)
    found = []
    fused = [layer for layer in backbone._lora_layers if "forward" in vars(layer)]
    assert fused and all(type(layer) is Linear for layer in fused)
    parts = [m for m in backbone.fast.decoder.modules() if "forward" in vars(m) and m not in fused]
    assert {type(m).__name__ for m in parts} == {"LlamaModel", "LlamaDecoderLayer", "LlamaAttention", "LlamaMLP", "LlamaRMSNorm"}
    for own in (False, True):
        if own:
            for layer in [*fused, *parts]:
                del layer.forward  # back to PEFT's and transformers'
        with backbone.role("policy", train=True):
            states = backbone.hidden_states(batch)
            gradients = torch.autograd.grad((states**2).sum(), backbone.parameters("policy"))
        found.append([states.detach(), *gradients])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
