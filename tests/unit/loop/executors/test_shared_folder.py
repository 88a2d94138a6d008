"""Workers that see the run directory, and workers that see another folder at its path, an old one, none, or one that they cannot write."""

import shutil

import pytest

from configs.errors import UserError
from loop.executors import shared_folder
from loop.executors.shared_folder import Sight, check_answers, find_problem, leave_word
from loop.store.layout import RunFolder


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    monkeypatch.setattr(shared_folder, "PATIENCE_SECONDS", 0.0)


@pytest.fixture
def work(tmp_path):
    work = RunFolder(tmp_path / "here" / "run").work("sft", None)
    work.path.mkdir(parents=True)
    return work


@pytest.fixture
def elsewhere(tmp_path):
    """What another machine has at the same path."""
    return RunFolder(tmp_path / "there" / "run").work("sft", None)


def sights(*problems):
    return [Sight(rank=rank, host=f"node-{rank}", problem=problem) for rank, problem in enumerate(problems)]


def test_workers_that_see_the_folder_are_found_to_see_it(work):
    word = leave_word(work)
    assert [find_problem(work, rank, word) for rank in range(2)] == [None, None]
    check_answers(work, word, sights(None, None))


def test_a_worker_without_the_folder_is_named(work, elsewhere):
    word = leave_word(work)
    assert find_problem(work, 0, word) is None
    problem = find_problem(elsewhere, 1, word)
    with pytest.raises(UserError) as raised:
        check_answers(work, word, sights(None, problem))
    assert raised.value.what == "worker 1 on node-1 does not see the run directory"
    assert raised.value.where == str(work.path.parents[1]) and "--runs" in raised.value.to_do


def test_a_copy_of_the_folder_is_not_the_folder(work, elsewhere):
    """The run directory was copied to another machine, and then went on here."""
    leave_word(work)
    shutil.copytree(work.path, elsewhere.path)
    assert find_problem(elsewhere, 0, leave_word(work)) == "does not see the run directory"


def test_a_worker_that_cannot_write_there(work):
    """A folder stands where the answer should be, so that not even root can write it."""
    word = leave_word(work)
    work.answer(0).mkdir()
    assert find_problem(work, 0, word) == "cannot write to the run directory (Is a directory)"


def test_answers_that_do_not_arrive(work, elsewhere):
    """A worker reads the driver's files but writes into a layer of its own, as a container may. An answer of an earlier start is there."""
    old = leave_word(work)
    assert find_problem(work, 0, old) is None
    word = leave_word(work)
    shutil.copytree(work.path, elsewhere.path)
    assert find_problem(elsewhere, 0, word) is None
    with pytest.raises(UserError, match="what it writes there does not arrive"):
        check_answers(work, word, sights(None))


def test_a_file_that_comes_late_is_waited_for(work, monkeypatch):
    monkeypatch.setattr(shared_folder, "PATIENCE_SECONDS", 5.0)
    monkeypatch.setattr(shared_folder.time, "sleep", lambda seconds: work.word.write_text("late"))
    assert find_problem(work, 0, "late") is None
