"""Record what TRL 1.12.0's PPO makes of given log-probs, values and scores: the numbers that `test_parity.py` compares ours with.

TRL's trainer is one long function; the two sections that turn numbers into advantages and losses are cut out of its installed source
by their comments and run as they stand. Rows are of full length: for shorter ones TRL puts the score one place after the end token
and bootstraps from the value there, which we do not do (arXiv 2403.17031 gives the score at the end token).

    python -m tests.benchmarks.ppo_parity       # writes tests/unit/policies/trl_ppo.json; installs TRL 1.12.0 into a folder of its own
"""

import json
import tempfile
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from tests.benchmarks.ppo_speed import PEER_VERSION, install_peer

OUTPUT = Path(__file__).parents[1] / "unit" / "policies" / "trl_ppo.json"
B, R = 6, 5
CASES = {
    "published": {},
    "k3": {"kl_estimator": "k3"},
    "whitened_rewards": {"whiten_rewards": True},
    "discounted": {"gamma": 0.9, "lam": 0.8, "kl_coef": 0.3, "cliprange": 0.1, "cliprange_value": 0.05, "vf_coef": 0.5},
}


def inputs() -> dict[str, torch.Tensor]:
    """One rollout, and what the model says after it has moved; float64."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    logprobs = -1.0 - draw(B, R).abs()
    values = draw(B, R)
    return {
        "logprobs": logprobs,
        "ref_logprobs": logprobs + 0.3 * draw(B, R),
        "values": values,
        "scores": draw(B),
        "new_logprobs": logprobs + 0.3 * draw(B, R),
        "vpred": values + 0.3 * draw(B, R),
    }


def section(source: str, first: str, last: str) -> str:
    """The lines from the one that contains `first` to the one that contains `last`, without their indentation."""
    lines = source.splitlines()
    start = next(i for i, line in enumerate(lines) if first in line)
    stop = next(i for i, line in enumerate(lines) if i > start and last in line)
    return textwrap.dedent("\n".join(lines[start : stop + 1]))


def run_theirs(source: str, settings: dict[str, Any]) -> dict[str, Any]:
    """TRL's rewards, advantages, returns, losses, and gradients for new log-probs and values."""
    published = {"kl_estimator": "k1", "kl_coef": 0.05, "whiten_rewards": False, "gamma": 1.0, "lam": 0.95}
    published |= {"cliprange": 0.2, "cliprange_value": 0.2, "vf_coef": 0.1}
    given = inputs()
    space: dict[str, Any] = {"torch": torch, "args": SimpleNamespace(**published | settings), "empty_cache": lambda: None}
    exec(section(source, "def masked_mean(", "return whitened"), space)  # the helpers: masked_mean, masked_var, masked_whiten
    nothing = torch.zeros(B, R, dtype=torch.bool)
    space |= {name: given[name].clone() for name in ("logprobs", "ref_logprobs", "values", "scores")}
    space |= {"responses": torch.zeros(B, R), "padding_mask": nothing, "padding_mask_p1": nothing}
    space |= {"sequence_lengths": torch.full((B,), R - 1), "sequence_lengths_p1": torch.full((B,), R)}
    exec(section(source, "# 4. compute rewards", "advantages = torch.masked_fill(advantages, padding_mask, 0)"), space)
    new_logprobs, vpred = given["new_logprobs"].requires_grad_(), given["vpred"].requires_grad_()
    space |= {"new_logprobs": new_logprobs, "vpred": vpred, "micro_batch_inds": torch.arange(B), "mb_values": space["values"]}
    space |= {"mb_return": space["returns"], "mb_advantage": space["advantages"], "mb_logprobs": space["logprobs"]}
    exec(section(source, "vpredclipped = torch.clamp(", "loss = pg_loss + args.vf_coef * vf_loss"), space)
    space["loss"].backward()
    found = {name: space[name].tolist() for name in ("rewards", "advantages", "returns")}
    found |= {name: space[name].item() for name in ("pg_loss", "vf_loss", "loss")}
    return found | {"grad_logprobs": new_logprobs.grad.tolist(), "grad_values": vpred.grad.tolist(), "settings": vars(space["args"])}


def main() -> None:
    peer = Path(tempfile.gettempdir()) / f"trl-{PEER_VERSION}"
    install_peer(peer)
    source = (peer / "trl" / "experimental" / "ppo" / "ppo_trainer.py").read_text(encoding="utf-8")
    recorded = {"trl": PEER_VERSION, "inputs": {name: tensor.tolist() for name, tensor in inputs().items()}}
    recorded["cases"] = {name: run_theirs(source, settings) for name, settings in CASES.items()}
    OUTPUT.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    print(f"{OUTPUT}: {', '.join(CASES)}")


if __name__ == "__main__":
    main()
