"""Data parallelism: the rank of this process, sums over workers, and a queue of shards. With one worker all of it does nothing.

The queue is a counter in torch.distributed's store, so a slow worker takes fewer shards.
"""

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import count

import psutil
import torch
import torch.distributed as dist
from torch.nn.utils import parameters_to_vector, vector_to_parameters

_queue_number = count()
_before_meeting: list[Callable[[], None]] = []
"""At most one function (see `before_meetings`)."""


@dataclass(frozen=True)
class Meeting:
    """Where the workers find each other. `listener` is the open port; only the first worker has it."""

    host: str
    port: int
    listener: socket.socket | None = None


def join(rank: int, world_size: int, host: str, meeting: Meeting, seconds: float) -> None:
    """Make this process number `rank` of `world_size`; transformers and accelerate read the same variables.

    host: the address of this worker. Nothing listens on any other address, and other machines cannot reach the loopback address.
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
    # If the store opened the port itself, it would open it on all interfaces.
    listener = meeting.listener.detach() if meeting.listener else None
    store = dist.TCPStore(meeting.host, meeting.port, world_size, listener is not None, timeout, master_listen_fd=listener, use_libuv=True)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def interface_of(host: str) -> str | None:
    """Return the name of the network interface of this machine that has the address, or None."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == host for address in addresses):
            return name
    return None


def lost_another(error: RuntimeError) -> bool:
    """Tell whether an error means that another worker is gone or does not answer.

    Gloo raises a plain RuntimeError that names its source file.
    """
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def rank() -> int:
    """Return the number of this process, counted from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of workers."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Tell whether this is the main worker, which writes what is the same on all of them."""
    return rank() == 0


def before_meetings(call: Callable[[], None]) -> None:
    """Have `call` called, instead of what was given before, whenever this worker is about to wait for all the others."""
    _before_meeting[:] = [call]


def _meet() -> None:
    for call in _before_meeting:
        call()


def agree(flag: bool) -> bool:
    """Return the main worker's answer on all workers."""
    return bool(agree_number(int(flag)))


def agree_number(number: int) -> int:
    """Return the main worker's number on all workers."""
    if not dist.is_initialized():
        return number
    _meet()
    box = _box(number)
    dist.broadcast(box, 0)
    return int(box.item())


def barrier() -> None:
    """Wait until all workers are here."""
    if dist.is_initialized():
        _meet()
        dist.barrier()


def all_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of the tensor over all workers."""
    if dist.is_initialized():
        _meet()
        tensor = tensor.contiguous()
        dist.all_reduce(tensor)
    return tensor


def flattened(parameters: list[torch.nn.Parameter]) -> torch.nn.Parameter:
    """Return one vector with a gradient, and make these parameters (of one dtype) and their gradients views of it.

    Clipping, the optimizer and the sum over workers then need one operation instead of one for each of a hundred small tensors. The
    parameters stay views as long as gradients are set to zero in place: `zero_grad(set_to_none=False)`.
    """
    vector = torch.nn.Parameter(parameters_to_vector(parameters).detach())
    vector.grad = torch.zeros_like(vector)
    vector_to_parameters(vector.detach(), parameters)
    for parameter, gradient in zip(parameters, vector.grad.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)
    return vector


def sum_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Replace every gradient in place by its sum over the workers. These are only a few MB, because only adapters are trained."""
    if dist.is_initialized():
        _meet()
        for parameter in parameters:
            dist.all_reduce(parameter.grad)


def take_shards(num_shards: int) -> Iterator[int]:
    """Yield shard numbers for this worker until the queue is empty. All workers share the queue, and all must call this."""
    queue = f"shards-{next(_queue_number)}"
    if not dist.is_initialized():
        yield from range(num_shards)
        return
    store = dist.distributed_c10d._get_default_store()
    while (shard := store.add(queue, 1) - 1) < num_shards:
        yield shard


def gather(items: list) -> list:
    """Return the items of all workers on every worker, in the order of their ranks. For plain data only."""
    if not dist.is_initialized():
        return items
    _meet()
    parts: list = [None] * world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


# -- for `sharding.py`, which decides itself when to meet -----------------------------------------------------------------


def smallest(number: int) -> int:
    """Return the smallest of the workers' numbers on all of them."""
    box = _box(number)
    dist.all_reduce(box, dist.ReduceOp.MIN)
    return int(box.item())


def put_together(whole: torch.Tensor, part: torch.Tensor) -> None:
    """Write the parts of all workers, one after the other, into `whole` on all of them."""
    dist.all_gather_single(whole, part)


def _box(number: int) -> torch.Tensor:
    return torch.tensor([number], device="cuda" if torch.cuda.is_available() else "cpu")
