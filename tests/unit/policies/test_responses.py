"""A batch of responses gives the same numbers in parts as in one pass, and under whatever adapter was active before."""

import torch

from policies.responses import Response, ResponseBatch, Trace, kept_start_states
from tests.conftest import perturb

PROMPTS, RESPONSES = [[5, 6, 7], [8, 9], [10]], [[10, 11, 1], [12, 13, 14, 15], [16]]


def test_parts_of_a_batch_give_the_numbers_of_the_whole(backbone):
    backbone.add_adapter("policy")
    perturb(backbone, "policy")
    batch = ResponseBatch.from_ids(backbone, PROMPTS, RESPONSES, temperature=0.7)
    states, logprobs = batch.under("policy")
    assert states.shape == (8, backbone.hidden_size) and logprobs.shape == (3, 4)
    for size in (1, 2):
        in_parts = batch.under("policy", rows_at_a_time=size)
        assert torch.allclose(in_parts[0], states, atol=1e-5) and torch.allclose(in_parts[1], logprobs, atol=1e-5)
    assert not torch.allclose(batch.under(None)[1], logprobs)
    assert logprobs[~batch.mask].eq(0).all() and logprobs[batch.mask].lt(0).all()


def test_final_states_are_those_of_each_rows_last_token(backbone):
    batch = ResponseBatch.from_ids(backbone, PROMPTS, RESPONSES)
    with torch.no_grad():
        final, every = batch.final_states(), backbone.hidden_states(batch.batch)
        assert torch.allclose(final, every[torch.tensor([5, 11, 13])], atol=1e-6)
        assert torch.allclose(batch.rows([2, 0]).final_states(), final[[2, 0]], atol=1e-5)


def test_start_states_are_used_only_if_all_responses_have_them():
    def response(start_states):
        nothing = torch.zeros(0)
        return Response([1], True, Trace(nothing, nothing, nothing, start_states))

    kept = [torch.ones(2, 4), torch.zeros(3, 4)]
    assert kept_start_states([response(states) for states in kept]) == kept
    assert kept_start_states([response(kept[0]), response(None)]) is None
    assert kept_start_states([response(kept[0]), Response([1], True)]) is None
    assert kept_start_states([]) is None
