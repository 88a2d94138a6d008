"""A sample depends on the prompt and its seed, not on the batch, and samples follow the model's distribution."""

import pytest
import torch

from configs.errors import LoopError
from configs.schema import GenerationConfig
from policies.generation import _draw, generate
from tests.conftest import perturb


def prompts_and_seeds(n):
    return [[3 + i % 40] * (1 + i % 5) for i in range(n)], list(range(n))


def test_the_same_samples_whatever_the_batch_size(backbone):
    backbone.add_adapter("policy")
    perturb(backbone, "policy")
    prompts, seeds = prompts_and_seeds(60)
    whole = generate(backbone, "policy", prompts, seeds, GenerationConfig(max_new_tokens=12, batch_size=60))
    for size in (1, 7, 32):
        assert generate(backbone, "policy", prompts, seeds, GenerationConfig(max_new_tokens=12, batch_size=size)) == whole
    backwards = generate(backbone, "policy", prompts[::-1], seeds[::-1], GenerationConfig(max_new_tokens=12, batch_size=7))
    assert backwards[::-1] == whole
    assert len({tuple(r.token_ids) for r in whole}) > 50  # seeds differ, so samples do


def test_responses_end_at_the_end_token_or_the_limit(backbone):
    backbone.add_adapter("policy")
    prompts, seeds = prompts_and_seeds(200)
    end = backbone.tokenizer.eos_token_id
    for response in generate(backbone, "policy", prompts, seeds, GenerationConfig(max_new_tokens=30)):
        assert response.finished == (response.token_ids[-1] == end)
        assert end not in response.token_ids[:-1]
        assert response.finished or len(response.token_ids) == 30


def test_draws_follow_the_distribution():
    # Four tokens with probabilities 0.1, 0.2, 0.3, 0.4; 100,000 evenly spaced uniform numbers hit each in proportion.
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().repeat(100_000, 1)
    uniforms = (torch.arange(100_000).double() + 0.5) / 100_000
    counts = torch.bincount(_draw(logits, uniforms, GenerationConfig(temperature=1.0))[0], minlength=4)
    assert (counts - torch.tensor([10_000, 20_000, 30_000, 40_000])).abs().max() <= 1
    # top_k 2 keeps 0.3 and 0.4; top_p 0.5 keeps 0.4 and the 0.3 that reaches 0.5.
    for config in (GenerationConfig(temperature=1.0, top_k=2), GenerationConfig(temperature=1.0, top_p=0.5)):
        counts = torch.bincount(_draw(logits, uniforms, config)[0], minlength=4)
        assert (counts - torch.tensor([0, 0, 42_857, 57_143])).abs().max() <= 1


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_an_error_and_not_the_last_token(backbone, merged, bad):
    """The embedding of token 9 is damaged, and it is in the prompt of one response of three."""
    backbone.add_adapter("policy")
    backbone.fast.paths.merged_decoding = merged
    backbone.causal_lm.get_input_embeddings().weight.data[9] = bad
    prompts = [[3, 4], [3, 9], [5, 6]]
    with pytest.raises(LoopError, match="the logits of 1 of 3 responses are not finite when their token 1 is sampled") as caught:
        generate(backbone, "policy", prompts, [1, 2, 3], GenerationConfig(max_new_tokens=4))
    assert "where: the policy 'policy' on the base tiny, in torch.float32" in str(caught.value) and "to do: " in str(caught.value)
    generate(backbone, "policy", [prompts[0], prompts[2]], [1, 3], GenerationConfig(max_new_tokens=1))
