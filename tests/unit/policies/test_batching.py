"""Which prompts and responses an update sees, for any number of workers."""

import pytest

from configs import load_config
from policies import parallel
from policies.batching import batches_by_length, minibatches, prompt_batches, worker_rows


def test_prompt_batches_use_every_prompt_before_any_again():
    batches = prompt_batches(10, 4, 5, seed=0)
    assert [len(b) for b in batches] == [4] * 5
    flat = [row for batch in batches for row in batch]
    assert sorted(flat[:10]) == list(range(10)) and sorted(flat[10:]) == list(range(10))
    assert batches == prompt_batches(10, 4, 5, seed=0) != prompt_batches(10, 4, 5, seed=1)


def in_two_epochs():
    return [rows for epoch in (0, 1) for rows in minibatches(16, 2, 4, epoch, 7, 3)]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_minibatches_are_the_same_for_any_number_of_workers(monkeypatch, workers):
    """16 responses, two to each prompt, in two epochs of four minibatches: each response is in one minibatch of each epoch."""
    monkeypatch.setattr(parallel, "world_size", lambda: workers)
    joined = [set() for _ in range(8)]
    for rank in range(workers):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        own = worker_rows(16, 2)
        assert len(own) == 16 // workers and all(i + 1 in own for i in own if i % 2 == 0)
        for together, rows in zip(joined, in_two_epochs(), strict=True):
            together |= {own[row] for row in rows}
    assert all(len(rows) == 4 for rows in joined)
    assert set().union(*joined[:4]) == set().union(*joined[4:]) == set(range(16))
    monkeypatch.setattr(parallel, "world_size", lambda: 1)
    monkeypatch.setattr(parallel, "rank", lambda: 0)
    assert joined == [set(rows) for rows in in_two_epochs()]


def test_a_batch_is_limited_by_its_tokens():
    # Sorted: 1, 2, 2, 3, 5, 9. With 8 tokens: 2 + 2 + 2 = 6, with the 3 it would be 4 x 3 = 12; 3, since 2 x 5 = 10; 5; and 9, which is
    # alone in any case. Equal lengths stay in their order.
    assert list(batches_by_length([3, 2, 9, 1, 2, 5], 8)) == [[3, 1, 4], [0], [5], [2]]
    assert list(batches_by_length([], 8)) == []


def test_by_default_the_embedded_world_has_128_rows_in_a_batch():
    """Its longest sequences have 128 tokens. The batches are those of a plain cut after every 128 rows, as they were before there was a
    limit in tokens, so no number of a run has changed."""
    config = load_config()
    longest = config.data.max_prompt_tokens + config.data.max_completion_tokens
    lengths = [1 + 37 * i % longest for i in range(1000)] + [longest] * 300
    order = sorted(range(1300), key=lambda i: lengths[i])
    expected = [order[start : start + 128] for start in range(0, 1300, 128)]
    assert list(batches_by_length(lengths, config.runtime.tokens_per_batch)) == expected
