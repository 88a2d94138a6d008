"""Text from files and configs cannot control the terminal."""

import json

import pytest

from configs import UserError
from configs.schema import DataConfig
from loop.commands.main import main
from loop.printing import UNPRINTABLE, printable
from loop.terminal import Terminal
from rewards.data.preference_data import load_preference_data

NASTY = "a\x1b[31mred\x1b]0;title\x07\r\x08\x7f\x9b2J\u202eevil\u2066\u2028end\ud800"


def test_what_is_escaped_and_what_is_not():
    assert printable("\x1b[31m\r\x9b\u202e\ud800") == r"\u001b[31m\u000d\u009b\u202e\ud800"
    legal = "tab\tline\nกำ น้ำ \u200b\u200d👩‍🚀 \\u001b"
    assert printable(legal) == legal


def test_printed_json_is_the_same_json():
    value = {NASTY: [NASTY]}
    shown = printable(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(shown) == value and not UNPRINTABLE.search(shown)


@pytest.mark.parametrize("name", ["x\x1b[2Jy", "x\u009b2J", "\u202ex", "\ud800"])
def test_a_column_name_reaches_no_terminal(tmp_path, capsys, name):
    """Half of a surrogate pair is no character, so the line is refused. The other names are shown as columns that exist."""
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({name: "a"}))
    with pytest.raises(UserError) as caught:
        load_preference_data(DataConfig(source=str(path)), 0)
    Terminal().say(str(caught.value))
    out = capsys.readouterr().out
    assert not UNPRINTABLE.search(out.replace("\n", "")) and ("surrogate" in out if name == "\ud800" else "it has" in out)


def test_words_of_the_command_line_are_escaped(tmp_path, capsys):
    assert main(["status", NASTY, "--runs", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert "red" in shown and not UNPRINTABLE.search(shown.replace("\n", ""))


def test_the_terminal_shows_text_as_it_is(capsys):
    """No markup and no emoji: "[bold]" and ":x:" are shown as they are."""
    Terminal().say(f"[bold]data[/bold] :x: {NASTY}")
    shown = capsys.readouterr().out
    assert shown.startswith("[bold]data[/bold] :x: ") and not UNPRINTABLE.search(shown.replace("\n", ""))
