"""Orchestration of a run: rounds, stages, what is on disk, where stages run, the command line. Read `round.py` first.

The other packages of this project have common names, and the user's own folder may have packages called `configs` or `rewards` too. Python
would find those first where it looks in the working directory before it looks where this project is installed: after `python -m`, with
PYTHONPATH, and in Ray's workers. So these names are looked up beside this package, and nowhere else.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

__version__ = "0.1.0"

BESIDE = ("configs", "policies", "rewards")


class _Beside:
    """Finds the packages of this project."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """As `sys.meta_path` asks for it. None leaves a name to the other finders."""
        return PathFinder.find_spec(name, [str(Path(__file__).parents[1])]) if name in BESIDE else None


sys.meta_path.insert(0, _Beside)
