"""What may be named as data: files, told apart from data sets of the hub, before anything reads them."""

import os

import pytest

from configs import UserError
from rewards.data.sources import check_labels, check_sources, is_file_source


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with two files of pairs, a folder of them, and what `save_to_disk` leaves."""
    monkeypatch.chdir(tmp_path)
    folders = ("folder/a.jsonl", "saved/dataset_info.json", "both/dataset_dict.json")
    for name in ("pairs-1.jsonl", "pairs-2.jsonl", "notes.txt", "pairs.parquet.gz", *folders):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "nothing").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("source", "what", "to_do"),
    [
        ("missing.jsonl", "the data file does not exist: missing.jsonl", "check the path"),
        ("pair-1.jsonl", "did you mean 'pairs-1.jsonl'?", "check the path"),
        ("./hh-rlhf", "the data file does not exist: ./hh-rlhf", "check the path"),
        ("~/pairs.jsonl", "does not exist", "~ means your home only"),
        ("pears-*.jsonl", "no file matches the pattern pears-*.jsonl", "check the pattern"),
        ("note?.txt", "unknown kind of data file: notes.txt", ".jsonl, .json"),
        ("folder", "the data is a folder: folder", "data='[folder/a.jsonl]'"),
        ("nothing", "the data is a folder: nothing", "give a file of pairs"),
        ("notes.txt", "unknown kind of data file: notes.txt", ".jsonl, .json, .parquet, .csv"),
        ("pairs.parquet.gz", "cannot be read while it is packed", "unpack it"),
        ("empty.jsonl", "the data set is empty", "prompt, chosen and rejected"),
        ([], "names nothing", "one or more files"),
        (["pairs-1.jsonl", "embedded"], "cannot be mixed", "leave `embedded` out"),
        (["pairs-1.jsonl", "Anthropic/hh-rlhf"], "does not exist: Anthropic/hh-rlhf", "check the path"),
        (300 * "x" + ".jsonl", "does not exist", "check the path"),
        ("a\0b.jsonl", "does not exist", "check the path"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_is_possible(here, source, what, to_do):
    with pytest.raises(UserError) as caught:
        check_sources(source, "the command line: data=…")
    assert what in caught.value.what and to_do in caught.value.to_do and caught.value.where == "the command line: data=…"


def test_what_can_be_read_passes(here):
    for source in (
        "embedded",
        "pairs-1.jsonl",
        ["pairs-1.jsonl", "pairs-2.jsonl"],
        str(here / "pairs-1.jsonl"),
        "Anthropic/hh-rlhf",
        "pairs-*.jsonl",
        "saved",
        "both",
        3,
        [1],
    ):
        check_sources(source, "")  # what is not text is the schema's to refuse
    assert not is_file_source("Anthropic/hh-rlhf") and is_file_source("a/b/c")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(here):
    (here / "pairs-1.jsonl").chmod(0)
    with pytest.raises(UserError, match="may not be read"):
        check_sources("pairs-1.jsonl", "")


def test_labels_are_not_looked_for_in_a_folder(here):
    with pytest.raises(UserError, match="labeler.path is a folder"):
        check_labels("folder", "")
    (here / "labels-0").mkdir()
    with pytest.raises(UserError, match="labeler.path is a folder"):
        check_labels("labels-{round}", "")
    check_labels("labels/round-{round}.jsonl", "")
    check_labels(None, "")
