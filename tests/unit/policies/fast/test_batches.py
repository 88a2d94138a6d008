"""Batches and their layout without padding."""

import pytest
import torch

from policies.fast.batches import pad_batch

PROMPTS = [[5, 6, 7, 8], [9], [10, 11]]
RESPONSES = [[12, 1], [13, 14, 15, 16, 17, 18], [19]]


@pytest.mark.parametrize("rows", [[0, 2], [1], [2, 0, 1]])
def test_rows_of_a_batch_are_those_rows_padded_by_themselves(rows):
    found = pad_batch(PROMPTS, RESPONSES, 0).rows(torch.tensor(rows))
    expected = pad_batch([PROMPTS[i] for i in rows], [RESPONSES[i] for i in rows], 0)
    for name in ("input_ids", "attention_mask", "position_ids", "response_mask"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_padding_and_its_inverse():
    """Rows of 6, 7 and 3 real tokens; the longest has 7."""
    unpadded = pad_batch(PROMPTS, RESPONSES, 0).unpadded
    states = torch.randn(16, 4, 5)
    assert unpadded.shape == (3, 7)
    assert torch.equal(unpadded.unpad(unpadded.pad(states)), states)
    assert torch.equal(unpadded.unpad_heads(unpadded.pad_heads(states)), states.flatten(1))
    assert unpadded.pad(states)[0, 6:].eq(0).all() and unpadded.pad_heads(states)[:, 0, 6:].eq(0).all()
    assert torch.equal(unpadded.pad(states)[2, :3], states[13:])


def test_tokens_that_predict_the_response():
    """The last token of the prompt predicts the first of the response. The last token of a row predicts nothing."""
    batch = pad_batch(PROMPTS, RESPONSES, 0)
    for unpadded in (batch.unpadded, batch.unpadded_but_last):
        assert unpadded.input_ids[unpadded.predictors].tolist() == [8, 12, 9, 13, 14, 15, 16, 17, 11]
    assert batch.response_ids.tolist() == [token for row in RESPONSES for token in row]
    assert batch.unpadded_but_last.input_ids.tolist() == [5, 6, 7, 8, 12, 9, 13, 14, 15, 16, 17, 10, 11]
    assert batch.unpadded.input_ids[batch.unpadded.last].tolist() == [1, 18, 19]
