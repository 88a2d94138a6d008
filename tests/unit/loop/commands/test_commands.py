"""Commands from words to exit code, on runs whose stages compute nothing: what an existing run takes from its own config."""

from contextlib import nullcontext

import pytest
import yaml

from loop.commands.main import main
from tests.unit.loop.fake_executor import FakeDriver, FakeExecutor


@pytest.fixture
def loop(tmp_path, monkeypatch, capsys):
    """Run a command in the test's own folder. Returns (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("loop.commands.run.executor_for", lambda config, folder: nullcontext(FakeExecutor()))

    def run(*words):
        code = main(words)
        return code, *capsys.readouterr()

    return run


def held(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


SETTINGS = ("ppo.num_updates=7", "seed=3", "base.dtype=bfloat16")


def test_a_run_continues_with_its_own_settings(loop, tmp_path):
    """Started with three settings, then given only the number of rounds. config.yaml keeps every value."""
    assert loop("run", "--name", "x", "--rounds", "1", *SETTINGS)[0] == 0
    before = held(tmp_path / "runs" / "x")
    code, out, err = loop("run", "--name", "x", "--rounds", "3")
    assert code == 0 and "round-002/evaluate" in out and "setup/" not in out and not err
    after = held(tmp_path / "runs" / "x")
    assert after == before | {"num_rounds": 3} and after["ppo"]["num_updates"] == 7
    assert "Nothing to do" in loop("run", "--name", "x")[1]  # and with its present number of rounds
    assert "Nothing to do" in loop("run", "--name", "x", "--rounds", "2")[1]


def test_resume_needs_nothing_but_the_run(loop, tmp_path):
    loop("run", "--name", "x", "--rounds", "1", *SETTINGS)
    assert "Nothing to do" in loop("resume")[1]  # there is only one run
    assert "round-001/evaluate" in loop("resume", "x", "--rounds", "2")[1]
    code, out, _ = loop("resume", "--rounds", "3", "ppo.micro_batch_size=4")  # a run-time setting may change
    assert code == 0 and "round-002/evaluate" in out
    assert held(tmp_path / "runs" / "x")["ppo"] == held(tmp_path / "runs" / "x")["ppo"] | {"micro_batch_size": 4, "num_updates": 7}


def test_only_what_is_given_and_differs_is_refused(loop, tmp_path):
    loop("run", "--name", "x", "--rounds", "1", *SETTINGS)
    for words in (["run", "--name", "x"], ["resume", "x"]):
        code, out, err = loop(*words, "ppo.num_updates=8", "seed=3")
        assert code == 2 and "ppo.num_updates: 7 there, 8 now" in err and "--fork NEW" in err and not out
        assert "seed" not in err and "dtype" not in err
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 4\n")
    assert "seed: 3 there, 4 now" in loop("run", "--name", "x", "--config", str(file))[2]
    file.write_text("ppo:\n  num_updates: 7\n")
    assert loop("run", "--name", "x", "--config", str(file))[0] == 0


def test_a_fork_differs_only_in_what_is_given(loop, tmp_path):
    loop("run", "--name", "x", "--rounds", "1", *SETTINGS)
    code, out, _ = loop("run", "--name", "x", "--fork", "y", "ppo.num_updates=8")
    assert code == 0 and "stages taken over from x" in out and "round-000/policy" in out
    x, y = held(tmp_path / "runs" / "x"), held(tmp_path / "runs" / "y")
    assert y == x | {"name": "y", "ppo": x["ppo"] | {"num_updates": 8}}


def test_settings_that_do_not_go_together_name_both_places(loop, tmp_path):
    loop("run", "--name", "x", "--rounds", "1", "ppo.batch_size=32")
    code, _, err = loop("resume", "x", "runtime.workers=3")
    assert code == 2 and "32 is not divisible by 6" in err
    config = tmp_path / "runs" / "x" / "config.yaml"
    assert f"where: {config}; the command line: runtime.workers=3" in err


def test_data_that_was_read_is_not_looked_for_again(loop, tmp_path):
    words = ("data=pairs.jsonl", "labeler.kind=preferences-file", "labeler.path=labels.jsonl")
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    assert loop("run", "--name", "x", "--rounds", "1", *words)[0] == 0
    (tmp_path / "pairs.jsonl").unlink()
    assert loop("resume", "x", "--rounds", "2")[0] == 0
    assert loop("run", "--name", "x", "--rounds", "3", *words)[0] == 0
    assert loop("run", "--name", "x", "--fork", "y", "ppo.num_updates=8")[0] == 0
    assert "the data file does not exist" in loop("run", "--name", "x", "--fork", "z", "data=other.jsonl")[2]
    assert "the data file does not exist" in loop("run", "--name", "new", *words)[2]


def test_a_folder_that_was_renamed_keeps_its_new_name(loop, tmp_path):
    loop("run", "--name", "x", "--rounds", "1", *SETTINGS)
    (tmp_path / "runs" / "x").rename(tmp_path / "runs" / "embedded")
    assert "round-001/evaluate" in loop("run", "--rounds", "2")[1]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["embedded"]


def test_what_resume_cannot_find(loop, tmp_path):
    assert "there is no run yet" in loop("resume")[2]
    loop("run", "--name", "x", "--rounds", "1")
    assert "there is no run 'y'" in loop("resume", "y")[2]
    (tmp_path / "runs" / "x" / "config.yaml").unlink()
    code, _, err = loop("resume", "x")
    assert code == 2 and "has no config.yaml" in err and "to do:" in err


def test_a_run_cannot_have_the_name_of_an_experiment(loop, tmp_path):
    """Its runs would not be listed any more, and it could not be continued."""
    FakeDriver(tmp_path / "runs" / "both" / "arm-seed-0").execute()
    code, _, err = loop("run", "--name", "both")
    assert code == 2 and "there is an experiment 'both'" in err and not (tmp_path / "runs" / "both" / "journal.jsonl").exists()
