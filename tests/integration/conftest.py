"""A run small enough for a test: every stage, real Ray, under a minute."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SMALL = [
    "base.pretraining_steps=30",
    "base.hidden_size=32",
    "base.num_layers=2",
    "base.num_heads=2",
    "data.num_pairs=96",
    "lora.rank=4",
    "generation.max_new_tokens=12",
    "ppo.num_updates=3",
    "ppo.batch_size=16",
    "sft.batch_size=16",
    "reward.num_epochs=1",
    "reward.normalization_samples=16",
    "sample.num_prompts=24",
    "sample.num_completions=3",
    "sample.heldout_fraction=0.4",
    "select.num_epochs=1",
    "evaluate.num_prompts=32",
]


class Workspace:
    """A folder to run the command line in, as a user would."""

    def __init__(self, folder: Path, cache: Path):
        self.folder, self.cache = folder, cache

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(PROJECT), "LOOP_CACHE": str(self.cache), "NO_COLOR": "1"}

    def start(self, *words: str, **options) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "loop", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def loop(self, *words: str, exit_code: int = 0) -> tuple[str, str]:
        """Run `python -m loop ...`; returns (stdout, stderr) after checking the exit code."""
        process = self.start(*words)
        out, err = process.communicate(timeout=600)
        assert process.returncode == exit_code, f"exit {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err + out
        return out, err

    def small(self, name: str, *words: str, exit_code: int = 0) -> tuple[str, str]:
        return self.loop("run", "--name", name, *words, *SMALL, exit_code=exit_code)

    def status(self, name: str) -> dict:
        return json.loads(self.loop("status", name, "--json")[0])

    def digests(self, name: str) -> dict[str, str]:
        status = self.status(name)
        stages = {f"setup/{stage}": row["digest"] for stage, row in status["setup"].items()}
        return stages | {f"{r['round']}/{stage}": row["digest"] for r in status["rounds"] for stage, row in r["stages"].items()}


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def two_rounds(workspace):
    """The small run, two rounds, made once for all tests; gives the workspace."""
    workspace.small("whole", "--rounds", "2")
    return workspace
