"""`--help` and `--version`: what they say is true of the program."""

import re
from pathlib import Path

import pytest

from configs.errors import LoopError, Stopped, UserError, WaitingForLabels
from configs.loading import PRESETS
from configs.schema import RunConfig
from loop import __version__
from loop.commands.explaining import EXIT_CODES, SETTINGS
from loop.commands.main import COMMANDS, main

PROJECT = Path(__file__).parents[4]


def said(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_names_commands_presets_settings_and_exit_codes(capsys):
    text = said(capsys, "--help")
    assert max(map(len, text.splitlines())) <= 100
    presets = [path.stem for path in PRESETS.glob("*.yaml")]
    assert len(presets) >= 5
    for name in (*COMMANDS, *presets, *SETTINGS, *map(str, EXIT_CODES)):
        assert re.search(rf"^ +{re.escape(name)}( |$)", text, re.MULTILINE), name


def test_help_of_run_names_presets_and_settings(capsys):
    text = said(capsys, "run", "--help")
    assert "8b-4bit" in text and "ppo.kl_coefficient" in text


def test_every_setting_that_help_names_exists():
    for name in SETTINGS:
        section = RunConfig()
        *groups, last = name.split(".")
        for group in groups:
            section = getattr(section, group)
        assert last in type(section).model_fields, name


def test_exit_codes_are_those_of_the_errors_and_of_the_quickstart():
    codes = {0, *(kind.exit_code for kind in (LoopError, UserError, WaitingForLabels, Stopped))}
    table = (PROJECT / "docs" / "quickstart.md").read_text(encoding="utf-8").partition("## Exit codes")[2]
    assert set(EXIT_CODES) == codes == {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}


def test_the_version_is_that_of_the_package(capsys):
    assert said(capsys, "--version") == f"loop {__version__}\n"
    assert f'version = "{__version__}"' in (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
