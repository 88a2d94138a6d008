"""Data parallelism: this process's rank, sums over workers, and a queue of shards. One worker needs none of it.

The queue is a counter in torch.distributed's store, so a slow worker takes fewer shards. Must never know what is trained.
"""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import count

import psutil
import torch
import torch.distributed as dist
from torch.nn.utils import parameters_to_vector, vector_to_parameters

_queue_number = count()


@dataclass(frozen=True)
class Meeting:
    """Where the workers find each other. `listener` is the open port itself, on the first worker only."""

    host: str
    port: int
    listener: socket.socket | None = None


def join(rank: int, world_size: int, host: str, meeting: Meeting, seconds: float) -> None:
    """Make this process number `rank` of `world_size`; transformers and accelerate read the same variables.

    host: this worker's address. Nothing listens on any other, and loopback is reached by no other machine.
    seconds: how long a sum over the workers, or another wait for them, may take before it raises (see `lost_another`).
    """
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": "0" if torch.cuda.is_available() else str(rank),
        "MASTER_ADDR": meeting.host,
        "MASTER_PORT": str(meeting.port),
    }
    if name := interface_of(host):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
    timeout = timedelta(seconds=seconds)
    # Without a listener that is given, the store opens its port on all interfaces.
    listener = meeting.listener.detach() if meeting.listener else None
    store = dist.TCPStore(meeting.host, meeting.port, world_size, listener is not None, timeout, master_listen_fd=listener, use_libuv=True)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def interface_of(host: str) -> str | None:
    """The name of this machine's network interface that has the address; None where none has it."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == host for address in addresses):
            return name
    return None


def lost_another(error: RuntimeError) -> bool:
    """Whether this says that another worker is gone or does not come. Gloo says so in a plain RuntimeError that names its source file."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def agree(flag: bool) -> bool:
    """The main worker's answer, on all workers."""
    return bool(agree_number(int(flag)))


def agree_number(number: int) -> int:
    """The main worker's number, on all workers."""
    if not dist.is_initialized():
        return number
    box = torch.tensor([number], device="cuda" if torch.cuda.is_available() else "cpu")
    dist.broadcast(box, 0)
    return int(box.item())


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def all_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor summed over all workers."""
    if dist.is_initialized():
        tensor = tensor.contiguous()
        dist.all_reduce(tensor)
    return tensor


def flattened(parameters: list[torch.nn.Parameter]) -> torch.nn.Parameter:
    """One vector [numbers of all], with a gradient, of which these parameters, of one dtype, and their gradients become views.

    Clipping, the optimiser and the sum over workers then take one operation instead of one for each of a hundred small tensors.
    They stay views as long as gradients are set to zero in place: `zero_grad(set_to_none=False)`.
    """
    vector = torch.nn.Parameter(parameters_to_vector(parameters).detach())
    vector.grad = torch.zeros_like(vector)
    vector_to_parameters(vector.detach(), parameters)
    for parameter, gradient in zip(parameters, vector.grad.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)
    return vector


def sum_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Replace every gradient, in place, by its sum over the workers: a few MB of adapters."""
    if dist.is_initialized():
        for parameter in parameters:
            dist.all_reduce(parameter.grad)


def take_shards(num_shards: int) -> Iterator[int]:
    """Shard numbers for this worker, until the queue that all workers share is empty. Call it on every worker alike."""
    queue = f"shards-{next(_queue_number)}"
    if not dist.is_initialized():
        yield from range(num_shards)
        return
    store = dist.distributed_c10d._get_default_store()
    while (shard := store.add(queue, 1) - 1) < num_shards:
        yield shard


def gather(items: list) -> list:
    """Everybody's items, in rank order, on every worker. Plain data only."""
    if not dist.is_initialized():
        return items
    parts: list = [None] * world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]
