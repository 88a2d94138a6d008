"""The command works in a folder that has packages with the names of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path):
    """A user's folder. Whoever imports one of its packages fails."""
    for name in ("configs", "policies", "rewards"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('this is the user\\'s {name}')\n")
    return tmp_path


def typed(folder, *words, **environment):
    done = subprocess.run([sys.executable, *words], cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("first", ["working directory", "PYTHONPATH"])
def test_packages_of_the_users_do_not_hide_ours(folder, first):
    """`python -m` looks in the working directory first, and PYTHONPATH comes before what is installed."""
    before, words = ([], ["-m", "loop"]) if first == "working directory" else ([str(folder)], ["-P", "-m", "loop"])
    path = os.pathsep.join([*before, str(PROJECT)])
    assert typed(folder, *words, "--version", PYTHONPATH=path).startswith("loop ")


def test_a_child_process_finds_ours_too(folder):
    """`data` reads rows in a process of its own, whose module is in `rewards`."""
    out = typed(folder, "-m", "loop", "data", "embedded", "data.num_pairs=20", PYTHONPATH=str(PROJECT))
    assert "ledger" in out
