"""What the driver does about functions of the user's: an edited one is noticed, a missing one is refused before anything starts."""

import pytest

from configs import UserError, load_config
from loop.executors.worker import Worker
from loop.functions import check_functions
from loop.keys import planned_keys
from tests.unit.loop.fake_executor import FakeDriver

SETTINGS = ("labeler.kind=mine.py:judge", "evaluate.rules=[empty, mine.py:rule]", "data=rows.py:pairs", "select.kinds=[mine.py:score]")
SETTINGS += ("select.use=mine.py:score",)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def judge(pairs): ...\ndef rule(reply): ...\ndef score(answers): ...\n")
    (tmp_path / "rows.py").write_text("def pairs(): ...\n")
    return tmp_path


def test_an_edited_function_makes_its_stage_again_and_says_so(here):
    """The judge alone is in `mine.py`, and its labels stay the same: what follows is not made again."""
    words = ("labeler.kind=mine.py:judge", "data.source=embedded")
    FakeDriver(here / "x", *words).execute()
    again = FakeDriver(here / "x", *words)
    again.execute()
    assert again.made == []
    (here / "mine.py").write_text("def judge(pairs): return [1.0] * len(pairs)\n")
    edited = FakeDriver(here / "x", *words)
    edited.execute()
    assert edited.made == ["round-000/label"]
    assert [line for line in edited.terminal.lines if "edited" in line] == [
        "round-000/label: mine.py:judge was edited, so this stage is made again, and so is all that depends on its result"
    ]
    again = FakeDriver(here / "x", *words)
    again.execute()
    assert again.made == [] and not any("edited" in line for line in again.terminal.lines)


def test_an_edited_score_of_a_finished_run_is_noticed(here):
    """Two stages have the name `policy`, and only one of them calls functions."""
    words = ("ppo.score=mine.py:score", "data.source=embedded")
    FakeDriver(here / "x", *words).execute()
    (here / "mine.py").write_text("def score(answers): return [1.0] * len(answers)\n")
    edited = FakeDriver(here / "x", *words)
    edited.execute()
    assert edited.made == ["round-000/policy"]


def test_other_labels_make_what_follows_again(here):
    words = ("labeler.kind=mine.py:judge", "data.source=embedded")
    FakeDriver(here / "x", *words).execute()
    (here / "mine.py").write_text("def judge(pairs): return [0.0] * len(pairs)\n")
    edited = FakeDriver(here / "x", *words)
    edited.executor.content = "other labels"
    edited.execute()
    assert edited.made == [f"round-000/{name}" for name in ("label", "retrain", "select", "keep", "evaluate")]


@pytest.mark.parametrize("data", ["data=rows.py:pairs", "data.sources=[{path: 'rows.py:pairs', name: mine}]"])
def test_each_function_is_in_the_keys_of_the_stages_that_call_it(here, data):
    config = load_config(overrides=[*SETTINGS, data], num_rounds=2)
    before = planned_keys(config)
    (here / "rows.py").write_text("def pairs(): yield {}\n")
    changed = [name for name, key in planned_keys(config).items() if before[name] != key]
    assert changed[0] == "setup/data" and len(changed) == len(before) - 1  # the embedded base does not read the data
    before = planned_keys(config)
    (here / "mine.py").write_text((here / "mine.py").read_text() + "\n")
    changed = [name for name, key in planned_keys(config).items() if before[name] != key]
    # PPO of round 0 maximizes the reward model's score. From round 1 on, the rules are among the features of what it maximizes.
    first = ("label", "retrain", "select", "keep", "evaluate")
    later = ("reward", "policy", "sample", "answer", *first)
    assert changed == ["setup/baseline", *(f"round-000/{name}" for name in first), *(f"round-001/{name}" for name in later)]


def test_the_name_of_a_model_is_not_taken_for_a_function(here):
    """`mistral:latest` has the form of `module:function`."""
    config = load_config(overrides=["respond=pivot", "pivot.translator=http", "pivot.model=mistral:latest"])
    check_functions(config, lambda path: ".".join(path))
    assert "setup/pivot" in planned_keys(config)


def test_built_in_functions_leave_keys_alone(here):
    driver = FakeDriver(here / "x")
    driver.execute()
    assert all("functions" not in row.metrics for _, _, row in driver.journal.state().stages())


def test_what_cannot_be_found_is_refused_with_its_place(here):
    (here / "mine.py").write_text("def judge(pairs): ...\n")
    with pytest.raises(UserError, match="mine.py has no function 'rule'") as caught:
        check_functions(load_config(overrides=SETTINGS), lambda path: f"the place of {'.'.join(path)}")
    assert caught.value.where == "the place of evaluate.rules"


def test_a_worker_does_not_run_an_edited_function(here):
    """The driver has made the key from another file."""
    config = load_config(overrides=SETTINGS)
    request = {"stage": "label", "round": 0, "config": config.model_dump(mode="json"), "reads": [], "inputs": {}}
    request |= {"work": str(here), "output": str(here), "functions": {"mine.py:judge": "another hash"}}
    with pytest.raises(UserError, match="mine.py:judge was edited while the run was using it"):
        Worker(0, 1).run_stage(request)
