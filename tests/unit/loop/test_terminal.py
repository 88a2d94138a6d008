"""What the terminal prints when a stage is finished."""

from loop.terminal import Terminal


def test_a_finished_stage_has_one_line_and_one_for_each_warning(capsys):
    """Texts may hold control characters and markup; both are shown and do nothing."""
    Terminal().stage_done("setup/sft", 12.3, {"loss": 0.66})
    assert capsys.readouterr().out.splitlines() == ["setup/sft              12.3 s  loss 0.66"]
    Terminal().stage_done("setup/sft", 12.3, {"loss": 0.66, "warnings": ["it is\nlate \x1b[2J", "[red]again[/red]"]})
    assert capsys.readouterr().out.splitlines() == [
        "setup/sft              12.3 s  loss 0.66",
        "  warning: it is late \\u001b[2J",
        "  warning: [red]again[/red]",
    ]
