"""The README names every command, preset and module; ARCHITECTURE.md names every stage."""

from pathlib import Path

from configs.loading import PRESETS
from loop.cli import _parser
from loop.round import LABELER, ROUND_STAGES, SETUP_STAGES

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def test_every_command_and_preset_is_in_the_readme():
    commands = next(action for action in _parser()._actions if action.choices).choices
    for command in commands:
        assert f"python -m loop {command}" in README
    for preset in PRESETS.glob("*.yaml"):
        assert f"`{preset.stem}`" in README


def test_every_module_is_in_the_readme():
    for package in ("configs", "loop", "policies", "rewards"):
        for module in (PROJECT / package).glob("*.py"):
            assert module.name in README or module.name in ("__init__.py", "__main__.py", "errors.py", "seeds.py"), module


def test_every_stage_is_in_the_architecture():
    text = (PROJECT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for stage in (*SETUP_STAGES, *ROUND_STAGES, LABELER):
        assert f"| {stage.name} |" in text
