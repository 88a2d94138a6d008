"""Decoding with merged weights gives the numbers of transformers' own decoder, and does not change the base."""

from collections import Counter

import pytest
import torch
import transformers
from torch import nn

from configs.schema import GenerationConfig, LoraSection
from policies.backbone import Backbone
from policies.fast.sampling import BLOCKS, MergedModel, Product, in_blocks
from policies.generation import generate
from policies.responses import ResponseBatch
from tests.conftest import make_causal_lm, perturb

SIZES = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
GROUPED = SIZES | {"num_key_value_heads": 2, "pad_token_id": 0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "rope_theta": 1e4}
KNOWN = {
    "llama": transformers.LlamaConfig(**GROUPED),
    "llama, yarn": transformers.LlamaConfig(**GROUPED, rope_parameters=YARN),
    "llama, tied, biases": transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "mistral": transformers.MistralConfig(**GROUPED, sliding_window=None),
    "qwen2": transformers.Qwen2Config(**GROUPED),
}
OTHER = {
    "llama, dynamic": transformers.LlamaConfig(**GROUPED, rope_parameters=YARN | {"rope_type": "dynamic"}),
    "llama, relu": transformers.LlamaConfig(**GROUPED, hidden_act="relu"),
    "mistral, window 3": transformers.MistralConfig(**GROUPED, sliding_window=3),
    "qwen3": transformers.Qwen3Config(**GROUPED, head_dim=8),
    "gemma2": transformers.Gemma2Config(**GROUPED, head_dim=8),
    "gpt2": transformers.GPT2Config(vocab_size=300, n_embd=32, n_layer=4, n_head=4),
}
PROMPTS = [[3 + i, 4, 5, 6, 7][: 1 + i % 5] for i in range(45)]
SEEDS = list(range(45))


def make_backbone(config, dtype=torch.float64, layers="all", target_modules="all-linear"):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    _, tokenizer = make_causal_lm()
    backbone = Backbone(model, tokenizer, LoraSection(rank=4, layers=layers, target_modules=target_modules))
    backbone.add_adapter("policy")
    perturb(backbone, "policy")
    return backbone


def merges(backbone):
    with torch.no_grad(), backbone.role("policy"):
        return MergedModel.try_merging(backbone.fast, 0) is not None


@pytest.mark.parametrize("layers", ["all", "upper-half"])
@pytest.mark.parametrize("name", KNOWN)
def test_the_same_responses_and_traces_as_from_transformers(name, layers):
    backbone = make_backbone(KNOWN[name], layers=layers)
    config = GenerationConfig(max_new_tokens=20, temperature=0.8, batch_size=30)
    assert merges(backbone)
    tokens = Counter(t for response in generate(backbone, "policy", PROMPTS, SEEDS, config) for t in response.token_ids)
    common = tokens.most_common(12)[-1][0]
    backbone.tokenizer.eos_token = backbone.tokenizer.convert_ids_to_tokens(common)  # one that comes up, so that rows end
    ours = generate(backbone, "policy", PROMPTS, SEEDS, config, trace=True)
    backbone.fast.paths.merged_decoding = False
    theirs = generate(backbone, "policy", PROMPTS, SEEDS, config, trace=True)
    assert ours == theirs
    assert len({len(response.token_ids) for response in ours}) > 3  # rows left the batch at different times
    for one, other in zip(ours, theirs, strict=True):
        for part in ("logprobs", "entropies", "states", "start_states"):
            found, expected = getattr(one.trace, part), getattr(other.trace, part)
            assert (found is None) == (expected is None) == (part == "start_states" and layers == "all")
            assert found is None or torch.allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("name", OTHER)
def test_what_is_not_known_goes_through_transformers(name):
    """In float32, because transformers' Gemma 2 gives NaN for padding in float64."""
    assert not merges(make_backbone(OTHER[name], torch.float32))


def test_a_model_whose_numbers_differ_is_not_trusted():
    """A layer with a known name computes something else. The comparison on first use finds that, and transformers decodes."""
    backbone = make_backbone(KNOWN["llama"])
    layer = backbone.fast.decoder.layers[1]
    forward = layer.forward
    layer.forward = lambda *args, **kwargs: 2 * forward(*args, **kwargs)
    assert not merges(backbone) and backbone.fast.paths.merged_decoding is False


def test_adapters_on_some_modules_only():
    backbone = make_backbone(KNOWN["qwen2"], target_modules=["q_proj", "down_proj"])
    config = GenerationConfig(max_new_tokens=12)
    assert merges(backbone)
    ours = generate(backbone, "policy", PROMPTS, SEEDS, config)
    backbone.fast.paths.merged_decoding = False
    assert generate(backbone, "policy", PROMPTS, SEEDS, config) == ours


@pytest.mark.parametrize("biases", [(False, False), (True, False)])
def test_a_packed_product_is_the_layers_side_by_side(biases):
    torch.manual_seed(0)
    modules = [nn.Linear(256, 200, bias=bias).requires_grad_(False) for bias in biases]
    with torch.no_grad():
        product = Product(modules, torch.empty(2**17))
        assert product.prepacked
        for rows in (1, 15, 16, 17, BLOCKS[1], BLOCKS[0] + BLOCKS[1] + 3):
            x = torch.randn(rows, 256)
            expected = torch.cat([module(x) for module in modules], 1)
            assert torch.allclose(in_blocks(product, x), expected, atol=1e-5)


def test_packed_sampling_keeps_the_log_probs_of_training():
    """In float32, with weights large enough to be prepacked, the sampler's log-probs equal the trainer's within 1e-5."""
    config = transformers.LlamaConfig(**GROUPED | {"hidden_size": 256, "intermediate_size": 512})
    torch.manual_seed(0)
    _, tokenizer = make_causal_lm()
    backbone = Backbone(transformers.LlamaForCausalLM(config), tokenizer, LoraSection(rank=4))
    backbone.add_adapter("policy")
    perturb(backbone, "policy", scale=0.02)
    before = {name: (p.data_ptr(), p.detach().clone()) for name, p in backbone.causal_lm.named_parameters()}
    responses = generate(backbone, "policy", PROMPTS, SEEDS, GenerationConfig(max_new_tokens=16, temperature=1.0), trace=True)
    with torch.no_grad(), backbone.role("policy"):
        merged = MergedModel.try_merging(backbone.fast, 0)
        assert merged is not None and merged.layers[0].inner.prepacked
        batch = ResponseBatch.from_ids(backbone, PROMPTS, [response.token_ids for response in responses])
        expected = batch.logprobs(batch.states())[batch.mask]
    assert torch.allclose(torch.cat([response.trace.logprobs for response in responses]), expected, atol=1e-5)
    for name, p in backbone.causal_lm.named_parameters():
        assert p.data_ptr() == before[name][0] and torch.equal(p, before[name][1])
