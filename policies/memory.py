"""What occupies memory while a policy is trained, in bytes."""

import resource
from collections.abc import Iterable
from typing import Any

import torch

from policies.backbone import Backbone


def resident_bytes(backbone: Backbone, heads: Iterable[torch.Tensor], optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Return the bytes of each owner, and `peak`: of the whole process on a CPU, of all tensors on a GPU.

    Tensors are counted by their storages, so a hidden copy would show. `kv_cache` is the largest one so far.
    """
    named = list(backbone.causal_lm.named_parameters())
    parts = backbone.sharded.parts if backbone.sharded else []
    moments = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    return {
        "base": stored_bytes([*(parameter for name, parameter in named if "lora_" not in name), *parts]),
        "adapters": stored_bytes(parameter for name, parameter in named if "lora_" in name),
        "heads": stored_bytes(heads),
        "optimizer": stored_bytes(moments),
        "kv_cache": backbone.fast.largest_cache_bytes,
        "peak": _peak_bytes(),
    }


def stored_bytes(tensors: Iterable[Any]) -> int:
    """Return the bytes of the storages behind some tensors, each storage counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
