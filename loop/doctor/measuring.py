"""Starts the child process that measures (trial.py), and reads what it found. Must never import torch."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from configs.errors import LoopError, UserError
from configs.schema import RunConfig
from loop.doctor.lengths import Lengths
from loop.executors.executor import child_environment, thread_variables

STEPS = 3
"""How many steps of each kind are timed, after one to warm up."""
ERROR_LINES = 5


@dataclass(frozen=True)
class Measured:
    """What the child found: the seconds of each unit, its peak in bytes over that of the libraries alone, and the model's fast paths."""

    seconds: dict[str, float]
    peak_bytes: int
    program_bytes: int
    paths: dict[str, Any]


def measure(config: RunConfig, model: dict[str, Any], lengths: Lengths, units: Sequence[str], threads: int, steps: int = STEPS) -> Measured:
    """Time `units` (work.UNITS) on a random model. model: the object in the base's config.json.

    Raises LoopError where the child fails, and UserError for a base that cannot be made up: one in 4 bits.
    """
    if config.base.quantization != "none":
        to_do = "set base.quantization=none, or time nothing: use `loop doctor` without --time and --load, and `loop plan run` with --gpu"
        raise UserError("a random model in 4 bits cannot be timed", f"base.quantization={config.base.quantization}", to_do)
    request = {
        "config": config.model_dump(mode="json"),
        "model": model,
        "lengths": asdict(lengths),
        "units": list(units),
        "threads": threads,
        "steps": steps,
    }
    return _ask_child(request, threads)


def _ask_child(request: dict[str, Any], threads: int) -> Measured:
    """Raises LoopError where the child fails."""
    environment = child_environment(PYTHONWARNINGS="ignore", **thread_variables(threads))
    command = [sys.executable, "-P", "-m", "loop.doctor.trial"]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, env=environment)
    if done.returncode:
        end = "\n".join(done.stderr.strip().splitlines()[-ERROR_LINES:])
        raise LoopError(f"a few steps on a random model failed (exit code {done.returncode}):\n{end}")
    return Measured(**json.loads(done.stdout))
