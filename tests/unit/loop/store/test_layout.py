"""The paths of a run directory are built in one file."""

import re
from pathlib import Path

from loop.store.layout import RunFolder, runs_in

LOOP = Path(__file__).parents[4] / "loop"


def test_half_a_fork_is_no_run(tmp_path):
    for name in ("x", ".y.fork-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "journal.jsonl").touch()
    assert runs_in(tmp_path) == [RunFolder(tmp_path / "x")]


def test_paths_of_a_run_are_built_in_one_file():
    """A file's name in quotes anywhere else would be a second place that knows where it is."""
    names = ["config.yaml", "journal.jsonl", "manifest.json", "progress.json", "ray.log", "failed-stage.log", "checkpoints"]
    pattern = re.compile(rf'"(?:{"|".join(map(re.escape, names))})"')
    found = {path.relative_to(LOOP).as_posix(): pattern.findall(path.read_text(encoding="utf-8")) for path in LOOP.rglob("*.py")}
    assert {path for path, literals in found.items() if literals} == {"store/layout.py"}, found
