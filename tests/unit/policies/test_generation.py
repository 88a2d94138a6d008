"""A sample depends on the prompt and its seed, not on the batch, and samples follow the model's distribution."""

from collections import Counter

import pytest
import torch

from configs.errors import LoopError
from configs.schema import GenerationConfig, LoraSection
from policies.backbone import Backbone
from policies.generation import _draw, generate
from policies.responses import EncodedPrompt, as_judged, make_records
from policies.tokenization import encode_completion, holds_stop_string
from tests.conftest import make_causal_lm, perturb

GREEDY = {"temperature": 1e-5, "max_new_tokens": 30}
"""Only the most likely token has a chance."""


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


def common_tokens(backbone, count):
    """Tokens that come up in greedy responses, which then end at different lengths if these end them."""
    prompts, seeds = prompts_and_seeds(40)
    found = Counter(t for r in generate(backbone, None, prompts, seeds, GenerationConfig(**GREEDY)) for t in set(r.token_ids))
    return [token for token, _ in found.most_common(count)]


def theirs(backbone, prompt, **settings):
    """What transformers' own `generate` answers."""
    ids = torch.tensor([prompt])
    settings = {"max_new_tokens": 30, "do_sample": False, "pad_token_id": 0} | settings
    return backbone.causal_lm.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)[0, len(prompt) :].tolist()


def shown(tokenizer, ids):
    """The ids of a response, or those of its text if a special token is inside."""
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special and id != tokenizer.eos_token_id}
    return encode_completion(tokenizer, tokenizer.decode(ids), finished=False) if special & set(ids) else ids


def test_a_response_ends_at_any_end_token_of_the_generation_config():
    model, tokenizer = make_causal_lm()
    ends = [tokenizer.eos_token_id, *common_tokens(Backbone(model, tokenizer, LoraSection(rank=4)), 3)]
    model, tokenizer = make_causal_lm()
    model.generation_config.eos_token_id = ends[1:]
    backbone = Backbone(model, tokenizer, LoraSection(rank=4))
    prompts, seeds = prompts_and_seeds(40)
    responses = generate(backbone, None, prompts, seeds, GenerationConfig(**GREEDY))
    records = make_records(tokenizer, [EncodedPrompt(ids) for ids in prompts], responses)
    for prompt, response, record, judged in zip(prompts, responses, records, as_judged(tokenizer, records), strict=True):
        assert response.token_ids == theirs(backbone, prompt, eos_token_id=ends)
        assert response.finished == (response.token_ids[-1] in ends)
        assert not set(ends) & set(response.token_ids[:-1])
        if response.finished:  # the text is without the end token, and training appends the tokenizer's own
            assert record.completion == tokenizer.decode(response.token_ids[:-1])
            assert judged.token_ids == [*prompt, *shown(tokenizer, response.token_ids[:-1]), tokenizer.eos_token_id]
    assert len({len(response.token_ids) for response in responses}) > 2 and {True, False} == {r.finished for r in responses}


@pytest.mark.filterwarnings("ignore::UserWarning:transformers")
def test_a_response_ends_in_a_stop_string_as_in_generate(backbone):
    texts = [backbone.tokenizer.decode([token]) for token in common_tokens(backbone, 40)]
    stops = [text for text in texts if text.isascii() and text.isprintable()][1:3]
    prompts, seeds = prompts_and_seeds(40)
    responses = generate(backbone, None, prompts, seeds, GenerationConfig(**GREEDY, stop_strings=stops))
    records = make_records(backbone.tokenizer, [EncodedPrompt(ids) for ids in prompts], responses)
    for prompt, response, record, judged in zip(prompts, responses, records, as_judged(backbone.tokenizer, records), strict=True):
        settings = {"stop_strings": stops, "tokenizer": backbone.tokenizer, "eos_token_id": backbone.tokenizer.eos_token_id}
        assert response.token_ids == theirs(backbone, prompt, **settings)
        assert response.finished == any(stop in record.completion for stop in stops) or response.token_ids[-1] == 1
        end = [1] if response.finished and response.token_ids[-1] != 1 else []
        assert judged.token_ids == [*prompt, *shown(backbone.tokenizer, response.token_ids), *end]
    assert {True, False} == {r.finished for r in responses} and len({len(r.token_ids) for r in responses}) > 2


def test_a_stop_string_of_many_tokens_is_found():
    """In Thai each of these characters has three bytes, which byte-level tokens may cut anywhere."""
    _, tokenizer = make_causal_lm()
    ids = encode_completion(tokenizer, "The mango สวัสดีค่ะ", finished=False)
    whole = [n for n in range(1, len(ids) + 1) if holds_stop_string(tokenizer, ids[:n], ["zzz", "สวัสดี"])]
    assert min(whole) == next(n for n in range(len(ids)) if "สวัสดี" in tokenizer.decode(ids[:n]))


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
