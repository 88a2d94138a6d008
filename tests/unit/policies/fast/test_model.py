"""Each fast path gives the numbers of transformers' own forward pass: no padding, a start at a middle layer, a trimmed last layer."""

from collections import Counter

import pytest
import torch
import transformers

from configs.schema import GenerationConfig, LoraSection
from policies.backbone import Backbone
from policies.fast.batches import pad_batch
from policies.fast.logprobs import token_logprobs
from policies.generation import generate
from policies.responses import ResponseBatch, kept_start_states
from tests.conftest import make_causal_lm, perturb

PROMPTS = [[5, 6, 7, 8], [9], [10, 11]]
RESPONSES = [[12, 1], [13, 14, 15, 16, 17, 18], [19]]
SIZES = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}


def architectures():
    gqa = SIZES | {"num_key_value_heads": 2, "pad_token_id": 0}
    return {
        "llama": transformers.LlamaConfig(**gqa),
        "mistral, window 3": transformers.MistralConfig(**gqa, sliding_window=3),
        "qwen2": transformers.Qwen2Config(**gqa),
        "qwen3": transformers.Qwen3Config(**gqa, head_dim=8),
        "gemma2": transformers.Gemma2Config(**gqa, head_dim=8),
        "gpt2": transformers.GPT2Config(vocab_size=300, n_embd=32, n_layer=4, n_head=4),
    }


def make_backbone(config, layers="all", rank=4):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # biases and norms too: nothing may hide behind a zero
    _, tokenizer = make_causal_lm()
    return Backbone(model, tokenizer, LoraSection(rank=rank, layers=layers))


@pytest.mark.parametrize("name", architectures())
def test_states_equal_those_of_each_row_alone(name):
    backbone = make_backbone(architectures()[name])
    batch = pad_batch(PROMPTS, RESPONSES, 0)
    with torch.no_grad():
        ours = backbone.hidden_states(batch).split([len(p) + len(r) for p, r in zip(PROMPTS, RESPONSES, strict=True)])
        last = backbone.hidden_states(batch, only=batch.unpadded.last)
        for states, end, prompt, response in zip(ours, last, PROMPTS, RESPONSES, strict=True):
            alone = backbone.fast.decoder(input_ids=torch.tensor([prompt + response])).last_hidden_state[0]
            assert torch.allclose(states, alone, atol=1e-4)
            assert torch.allclose(end, alone[-1], atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2, capped", "granite, scaled", "cohere, scaled"])
def test_logits_are_those_of_the_model(name):
    """Some models cap or scale their logits, and sampling and log-probs must do so too."""
    gqa = SIZES | {"num_key_value_heads": 2, "pad_token_id": 0}
    config = {
        "llama": transformers.LlamaConfig(**gqa),
        "gemma2, capped": transformers.Gemma2Config(**gqa, head_dim=8, final_logit_softcapping=2.0),
        "granite, scaled": transformers.GraniteConfig(**gqa, logits_scaling=3.0),
        "cohere, scaled": transformers.CohereConfig(**gqa, logit_scale=0.25),
    }[name]
    backbone = make_backbone(config)
    batch = pad_batch(PROMPTS, RESPONSES, 0)
    with torch.no_grad():
        expected = torch.cat(
            [backbone.causal_lm(input_ids=torch.tensor([p + r])).logits[0] for p, r in zip(PROMPTS, RESPONSES, strict=True)]
        )
        states = backbone.hidden_states(batch)
        assert torch.allclose(backbone.fast.logits(states), expected, atol=1e-3)
        tokens = batch.response_ids
        of_tokens = token_logprobs(backbone.fast, states[batch.unpadded.predictors], tokens, 1.0)
        assert torch.allclose(of_tokens, expected.log_softmax(-1)[batch.unpadded.predictors, tokens], atol=1e-3)


def test_what_each_architecture_can_do_is_found_out():
    """gemma2 caps its attention scores, and gpt2 has no `layers`, so they do without some fast paths. The others use all of them."""
    found = {name: make_backbone(config, "upper-half") for name, config in architectures().items()}
    paths = {name: backbone.fast.paths for name, backbone in found.items()}
    assert {n for n, p in paths.items() if p.unpadded} >= {"llama", "mistral, window 3", "qwen2", "qwen3"}
    assert {n for n, p in paths.items() if p.trimmed} == {"llama", "mistral, window 3", "qwen2", "qwen3"}
    assert {n for n, p in paths.items() if p.start_layer == 2} >= {"llama", "qwen2", "qwen3"}


@pytest.mark.parametrize("layers", ["all", "upper-half"])
def test_what_sampling_kept_is_what_training_computes(layers):
    """Compare log-probs, states and start states of a rollout whose rows end at different lengths and leave the batch."""
    model, tokenizer = make_causal_lm()
    backbone = Backbone(model.double(), tokenizer, LoraSection(rank=4, layers=layers))
    backbone.add_adapter("policy")
    perturb(backbone, "policy")
    prompts = [[3 + i, 4, 5, 6][: 1 + i % 4] for i in range(40)]
    config = GenerationConfig(max_new_tokens=24, temperature=0.9)
    tokens = Counter(t for r in generate(backbone, "policy", prompts, list(range(40)), config) for t in r.token_ids)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(tokens.most_common(9)[8][0])  # one that comes up, so that rows end
    responses = generate(backbone, "policy", prompts, list(range(40)), config, trace=True)
    lengths = {len(r.token_ids) for r in responses}
    assert len(lengths) > 4 and any(r.finished for r in responses) and not all(r.finished for r in responses)
    start_rows = kept_start_states(responses)
    assert (start_rows is None) == (layers == "all")
    ids = [r.token_ids for r in responses]
    batch = ResponseBatch.from_ids(backbone, prompts, ids, temperature=0.9)
    with torch.no_grad(), backbone.role("policy"):
        whole = batch.states()
        expected = batch.logprobs(whole)[batch.mask]
        if start_rows is not None:
            from_the_middle = ResponseBatch.from_ids(backbone, prompts, ids, start_rows=start_rows)
            assert torch.allclose(from_the_middle.states(), whole, atol=1e-9)
            with backbone.fast.capture_start_states() as captured:
                backbone.hidden_states(batch.batch)
            assert torch.allclose(captured[0][0], torch.cat(start_rows), atol=1e-9)
    assert torch.allclose(torch.cat([r.trace.states for r in responses]), whole, atol=1e-9)
    assert torch.allclose(torch.cat([r.trace.logprobs for r in responses]), expected, atol=1e-9)
