"""The state of PPO between two updates, on disk. Random numbers are derived from seeds, so they have no state.

ppo.safetensors   "<number>.value": a trained parameter vector; "<number>.<name>": the optimizer's tensors for it; "kept": the policy
                  that the guard keeps
ppo.json          the KL coefficient, the metrics of all updates so far, and what the guard has seen
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from policies import parallel
from policies.advantages import KLController
from policies.guard import Guard, Look

Log = list[dict[str, float]]
"""The metrics of each update."""


KEPT = "kept"


def save_state(
    folder: Path,
    parameters: Sequence[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    controller: KLController,
    guard: Guard,
    log: Log,
) -> None:
    """Write everything that the next update depends on. Only the main worker writes; the others have the same state."""
    if not parallel.is_main():
        return
    tensors = {f"{i}.value": parameter.detach() for i, parameter in enumerate(parameters)}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{i}.{name}": tensor for name, tensor in state.items()}
    if guard.kept is not None:
        tensors[KEPT] = guard.kept
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / "ppo.safetensors")
    seen = {"kl_coefficient": controller.coefficient, "log": log, "looks": [asdict(look) for look in guard.looks]}
    (folder / "ppo.json").write_text(json.dumps(seen), encoding="utf-8")


def load_state(
    folder: Path | None,
    parameters: Sequence[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    controller: KLController,
    guard: Guard,
) -> Log:
    """Restore what `save_state` wrote, on every worker. Returns the log. Without a folder it is empty, and the guard begins."""
    if folder is None:
        guard.begin(parameters[0])
        return []
    saved = json.loads((folder / "ppo.json").read_text(encoding="utf-8"))
    states: dict[int, dict[str, torch.Tensor]] = {}
    tensors = load_file(folder / "ppo.safetensors")
    guard.looks = [Look(**look) for look in saved["looks"]]
    guard.kept = tensors.pop(KEPT).to(parameters[0].device) if KEPT in tensors else None
    for name, tensor in tensors.items():
        number, part = name.split(".")
        states.setdefault(int(number), {})[part] = tensor
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(states[i].pop("value"))
    optimizer.load_state_dict(optimizer.state_dict() | {"state": {i: state for i, state in states.items() if state}})
    controller.coefficient = saved["kl_coefficient"]
    return saved["log"]
