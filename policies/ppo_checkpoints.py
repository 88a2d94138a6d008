"""The state of PPO between two updates, on disk. Random numbers are derived from seeds, so they have no state.

ppo.safetensors   "<number>.value": a trained parameter vector; "<number>.<name>": the optimiser's tensors for it
ppo.json          the KL coefficient, and the metrics of all updates so far
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from policies import parallel
from policies.advantages import KLController

Log = list[dict[str, float]]
"""The metrics of each update."""


def save_state(
    folder: Path, parameters: Sequence[torch.nn.Parameter], optimizer: torch.optim.Optimizer, controller: KLController, log: Log
) -> None:
    """Write everything that the next update depends on. Only the main worker writes; the others have the same state."""
    if not parallel.is_main():
        return
    tensors = {f"{i}.value": parameter.detach() for i, parameter in enumerate(parameters)}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{i}.{name}": tensor for name, tensor in state.items()}
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / "ppo.safetensors")
    (folder / "ppo.json").write_text(json.dumps({"kl_coefficient": controller.coefficient, "log": log}), encoding="utf-8")


def load_state(
    folder: Path | None, parameters: Sequence[torch.nn.Parameter], optimizer: torch.optim.Optimizer, controller: KLController
) -> Log:
    """Restore what `save_state` wrote, on every worker. Returns the log; it is empty if there is no folder."""
    if folder is None:
        return []
    saved = json.loads((folder / "ppo.json").read_text(encoding="utf-8"))
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(folder / "ppo.safetensors").items():
        number, part = name.split(".")
        states.setdefault(int(number), {})[part] = tensor
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(states[i].pop("value"))
    optimizer.load_state_dict(optimizer.state_dict() | {"state": {i: state for i, state in states.items() if state}})
    controller.coefficient = saved["kl_coefficient"]
    return saved["log"]
