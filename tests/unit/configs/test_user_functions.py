"""Functions of the user's: found, hashed and loaded, or refused with one clear message."""

import hashlib

import pytest

from configs import UserError, load_config
from configs.user_functions import check, find_hash, is_function, load


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judges.py").write_text(
        "import math\nfrom math import floor as rounded\nNUMBER = 3\n\n\ndef judge(pairs):\n    return NUMBER\n"
    )
    (tmp_path / "broken.py").write_text("def judge(:\n")
    (tmp_path / "crowd").mkdir()
    (tmp_path / "crowd" / "__init__.py").write_text("")
    (tmp_path / "crowd" / "votes.py").write_text("from crowd import __name__ as package\n\n\ndef judge():\n    return package\n")
    return tmp_path


@pytest.mark.parametrize("name", ["judges.py:judge", "folder/my judges.py:judge", "/a/b.py:f", "crowd.votes:judge", "votes:judge"])
def test_names_of_functions(name):
    assert is_function(name)


@pytest.mark.parametrize(
    "name", ["gold", "reward-model", "judges.py", "judges.py:", ":judge", "a/b:c", "hf://data/x", "user/data", "x:1", 3]
)
def test_other_names(name):
    assert not is_function(name)


def test_a_file_and_a_module(here):
    assert load("judges.py:judge")([]) == 3
    assert load(f"{here}/judges.py:judge")([]) == 3
    assert load("judges.py:rounded")(1.5) == 1
    assert load("crowd.votes:judge")() == "crowd"
    for name, path in (("judges.py:judge", here / "judges.py"), ("crowd.votes:judge", here / "crowd" / "votes.py")):
        check(name)
        assert find_hash(name) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("name", "file"), [("judges.py:judge", "judges.py"), ("edited.votes:judge", "edited/votes.py")])
def test_an_edited_function_is_loaded_as_it_is_now(here, name, file):
    """Even within the second, and with the same size: a cached .pyc would not notice."""
    (here / file).parent.mkdir(exist_ok=True)
    for number in (1, 2, 3):
        (here / file).write_text(f"def judge():\n    return {number}\n")
        before = find_hash(name)
        assert load(name)() == number and find_hash(name) == before


@pytest.mark.parametrize(
    ("name", "what", "to_do"),
    [
        ("judge.py:judge", "the file judge.py does not exist, did you mean 'judges.py'?", "check the path, from"),
        ("nowhere/a.py:judge", "the file nowhere/a.py does not exist", "check the path, from"),
        ("judges.py:jugde", "judges.py has no function 'jugde', did you mean 'judge'?", "write judges.py:judge"),
        ("crowd.votes:vote", "votes.py has no function 'vote'", "def vote(...)"),
        ("broken.py:judge", "broken.py is not valid Python", "correct the file"),
        ("crowds.votes:judge", "there is no Python module 'crowds.votes'", "path/to/file.py:judge"),
        ("crowd.voices:judge", "there is no Python module 'crowd.voices'", "path/to/file.py:judge"),
        (
            "rewards.mine:judge",
            "there is no Python module 'rewards.mine'",
            "'rewards' is a package of loop itself, so give the file of yours",
        ),
    ],
)
def test_what_is_not_there_is_said_before_anything_runs(here, name, what, to_do):
    with pytest.raises(UserError) as caught:
        check(name, "the command line: labeler.kind=...")
    assert what in caught.value.what and to_do in caught.value.to_do
    assert caught.value.where.startswith(("the command line", "broken.py, line 1"))


def test_what_is_not_a_function_is_said_when_it_is_loaded(here):
    with pytest.raises(UserError, match="'NUMBER' is not a function"):
        load("judges.py:NUMBER")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("labeler.kind=golden", "'reward-model', 'judge', 'rules' or 'mixture' or module:function or file.py:function"),
        ("select.kinds=[featurs]", "did you mean 'features'?"),
        ("select.kinds=[longest, features, longest]", "select.kinds names a selector twice"),
        (
            "select.use=mine.py:score",
            "select.use=mine.py:score is not among select.kinds, which are features, answer-features, reward-model",
        ),
        ("evaluate.rules=[emty]", "did you mean 'empty'?"),
        ("labeler.kind=judges.py", "module:function or file.py:function, not 'judges.py'"),
    ],
)
def test_an_unknown_kind_is_refused(word, message):
    with pytest.raises(UserError) as caught:
        load_config(overrides=[word])
    assert message in caught.value.what


def test_functions_are_taken_where_built_in_ones_are():
    words = ["data=rows.py:pairs", "labeler.kind=judges.py:judge", "select.kinds=[rules, mine.py:score]", "select.use=mine.py:score"]
    words += ["evaluate.rules=[empty, mine.py:too_long]"]
    config = load_config(overrides=words)
    assert config.evaluate.rules == ["empty", "mine.py:too_long"] and config.labeler.kind == "judges.py:judge"
    assert config.select.use == config.select.kinds[1] == "mine.py:score"
