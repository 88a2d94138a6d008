"""The label file: what it holds after an answer, an undo, a crash in the middle of a line, and beside another page."""

import json
from pathlib import Path

import pytest

from configs.errors import UserError
from loop.labeling.answers import AnswerFile, Conflict, _replace, opened, pair_of, read_answers


def label(rater: str, chosen: str, rejected: str, **more: object) -> dict[str, object]:
    return {"chosen_id": chosen, "rejected_id": rejected, "tie": False, "rater": rater, **more}


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_the_same_answer_twice_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    first = label("ann", "a", "b", comment="สวัสดี <script>")
    assert AnswerFile(path).add(first)
    assert not AnswerFile(path).add(first)  # a new process, as after a kill before the page had the reply
    assert rows(path) == [first]


def test_another_verdict_is_refused_until_the_first_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    file = AnswerFile(path)
    file.add(label("ann", "a", "b"))
    file.add(label("bob", "b", "a"))
    with pytest.raises(Conflict, match="ann has already labeled"):
        file.add(label("ann", "b", "a"))
    assert file.remove("ann", pair_of(label("", "b", "a")))
    assert not file.remove("ann", pair_of(label("", "b", "a")))
    file.add(label("ann", "b", "a"))
    assert rows(path) == [label("bob", "b", "a"), label("ann", "b", "a")]


def test_a_line_that_a_crash_has_cut_off_is_removed_and_a_whole_one_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    whole = json.dumps(label("ann", "a", "b"))
    path.write_text(f'{whole}\n{{"chosen_id": "c", "reje', encoding="utf-8")
    AnswerFile(path).add(label("ann", "c", "d"))
    assert rows(path) == [label("ann", "a", "b"), label("ann", "c", "d")]
    path.write_text(whole, encoding="utf-8")
    AnswerFile(path).add(label("ann", "c", "d"))
    assert rows(path) == [label("ann", "a", "b"), label("ann", "c", "d")]


def test_a_line_that_another_program_leaves_without_an_end_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    file = AnswerFile(path)
    file.add(label("ann", "a", "b"))
    with path.open("a") as other:
        other.write(json.dumps(label("eve", "e", "f")))
    file.add(label("ann", "c", "d"))
    assert rows(path) == [label("ann", "a", "b"), label("eve", "e", "f"), label("ann", "c", "d")]


def test_reading_never_changes_the_file(tmp_path: Path) -> None:
    """Its last line is one that another program is writing."""
    path = tmp_path / "labels.jsonl"
    text = json.dumps(label("ann", "a", "b")) + "\n" + '{"chosen_id": "c", "reje'
    path.write_text(text)
    assert list(read_answers(path).values()) == [label("ann", "a", "b")] and path.read_text() == text


def test_rows_of_other_programs_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    others = b'{"prompt": "q",  "chosen": "x", "rejected": "y"}\r\nnot JSON \xff\n{"chosen_id": "a", "rejected_id": "b", "rater": [1]}\n\n'
    path.write_bytes(others)
    file = AnswerFile(path)
    file.add(label("ann", "a", "b"))
    file.remove("ann", pair_of(label("", "a", "b")))
    assert path.read_bytes() == others


def test_what_another_program_appends_during_an_undo_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.jsonl"
    file = AnswerFile(path)
    file.add(label("ann", "a", "b"))
    with path.open("a") as other:
        other.write("the row of ")

    def replace(target: Path, data: bytes) -> None:
        with path.open("a") as other:
            other.write("another program\n")
        _replace(target, data)

    monkeypatch.setattr("loop.labeling.answers._replace", replace)
    file.remove("ann", pair_of(label("", "a", "b")))
    assert path.read_text() == "the row of another program\n"


def test_of_two_verdicts_by_hand_the_later_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    late, early = label("ann", "a", "b", labeled_at="2026-11-28T13:00:00Z"), label("ann", "b", "a", labeled_at="2026-11-28T12:00:00Z")
    path.write_text("".join(json.dumps(row) + "\n" for row in (late, early)))
    assert not AnswerFile(path).add(label("ann", "a", "b"))
    with pytest.raises(Conflict):
        AnswerFile(path).add(label("ann", "b", "a"))


def test_a_disk_that_refuses_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.jsonl"
    file = AnswerFile(path)
    file.add(label("ann", "a", "b"))

    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("os.fsync", refuse)
        file.add(label("ann", "c", "d"))
    assert rows(path) == [label("ann", "a", "b")]
    assert file.add(label("ann", "c", "d"))  # it was not taken for saved


def test_a_second_page_on_the_same_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels" / "round-0.jsonl"
    with opened(path) as file:
        file.add(label("ann", "a", "b"))
        with pytest.raises(UserError, match="another labeling page"), opened(path):
            pass
    with opened(path) as again:
        assert len(again.answers) == 1
