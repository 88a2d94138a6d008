"""Which prompts and which responses an update of PPO sees, and which of them are this worker's; and batches of limited size for other work.

Everything follows from the seed, and the batches are the same for any number of workers.
"""

from collections.abc import Iterator, Sequence

import torch

from configs.seeds import derive_seed
from policies import parallel

MAX_ROWS = 128
"""A batch of `batches_by_length` has at most this many rows. More of them would make nothing faster."""


def prompt_batches(num_prompts: int, batch_size: int, num_updates: int, seed: int) -> list[list[int]]:
    """Return the prompts of each update. One random order of all prompts follows another, so none is repeated within an order."""
    rows: list[int] = []
    orders = 0
    while len(rows) < batch_size * num_updates:
        generator = torch.Generator().manual_seed(derive_seed(seed, "pass", orders))
        rows += torch.randperm(num_prompts, generator=generator).tolist()
        orders += 1
    return [rows[i * batch_size : (i + 1) * batch_size] for i in range(num_updates)]


def worker_rows(size: int, group_size: int) -> list[int]:
    """Return this worker's rows of a batch of `size` responses. Prompts, with their `group_size` responses, go round the workers."""
    return [i for i in range(size) if i // group_size % parallel.world_size() == parallel.rank()]


def minibatches(size: int, group_size: int, num_minibatches: int, epoch: int, *seed: int) -> list[list[int]]:
    """Return this worker's rows of each minibatch of an epoch, counted among its own rows."""
    own = {i: row for row, i in enumerate(worker_rows(size, group_size))}
    generator = torch.Generator().manual_seed(derive_seed(*seed, "epoch", epoch))
    order = torch.randperm(size, generator=generator)
    return [[own[i] for i in part.tolist() if i in own] for part in order.chunk(num_minibatches)]


def batches_by_length(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Yield the numbers of rows in batches, the shortest rows first, so that there is little padding.

    A batch has at most MAX_ROWS rows, and with padding at most `tokens_per_batch` tokens, unless one row alone has more.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batch and (len(batch) == MAX_ROWS or (len(batch) + 1) * lengths[row] > tokens_per_batch):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
