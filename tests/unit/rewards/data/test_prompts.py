"""Files with prompts to answer: what is read, and what is refused with one message."""

import gzip

import pytest

from configs import UserError
from rewards.comparisons import PromptRecord
from rewards.data.prompts import read_prompts
from rewards.data.splits import content_id

MESSAGES = [{"role": "user", "content": "What is a mango?"}]


def test_a_row_has_text_or_messages(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "Say it", "note": 7}\n\n{"prompt": [{"role": "user", "content": "What is a mango?"}], "source": "mail"}\n')
    expected = [PromptRecord(content_id("Say it"), "Say it"), PromptRecord(content_id(MESSAGES), MESSAGES, "mail")]
    assert read_prompts(file, as_messages=True, is_normalized=True) == read_prompts(file, as_messages=False, is_normalized=True) == expected
    packed = tmp_path / "prompts.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert read_prompts(packed, as_messages=True, is_normalized=True) == expected


def test_a_line_of_text_has_the_form_of_the_runs_prompts(tmp_path):
    """A byte order mark, Windows line ends and blank lines, as editors leave them."""
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffWhat is a mango?\r\n\r\n  มะม่วง \r\n".encode())
    assert [record.prompt for record in read_prompts(file, as_messages=False, is_normalized=True)] == ["What is a mango?", "มะม่วง"]
    assert read_prompts(file, as_messages=True, is_normalized=True)[0] == PromptRecord(content_id(MESSAGES), MESSAGES)


def test_prompts_are_normalized_as_those_of_the_run(tmp_path):
    """A decomposed sara am, as some keyboards write it, and a zero-width space."""
    file, written, plain = tmp_path / "prompts.txt", "น\u0e4d\u0e32\u200bใจ", "น\u0e33ใจ"
    file.write_text(written, encoding="utf-8")
    assert read_prompts(file, as_messages=False, is_normalized=True) == [PromptRecord(content_id(plain), plain)]
    assert read_prompts(file, as_messages=False, is_normalized=False) == [PromptRecord(content_id(written), written)]


@pytest.mark.parametrize(
    ("name", "content", "what", "where"),
    [
        ("empty.txt", b"\n \n", "there is no prompt in the file", "empty.txt"),
        ("empty.jsonl", b"", "there is no prompt in the file", "empty.jsonl"),
        ("prompts.csv", b"prompt\n", "neither in .jsonl nor in .txt", "prompts.csv"),
        ("latin.txt", b"ok\ncaf\xe9\n", "this is not UTF-8 text", "latin.txt, line 2"),
        ("rows.jsonl", b'{"prompt": "a"}\n{"question": "b"}\n', "line 2 cannot be used: it has no prompt", "rows.jsonl, line 2"),
        ("rows.jsonl", b'{"prompt": 7}\n', "prompt is not text or messages", "rows.jsonl, line 1"),
        ("rows.jsonl", b'{"prompt": " "}\n', "the prompt is empty", "rows.jsonl, line 1"),
        ("rows.jsonl", b'{"prompt": [{"role": "human", "content": "a"}]}\n', "role is none of", "rows.jsonl, line 1"),
        ("rows.jsonl", b"What is a mango?\n", "line 1 is not JSON", "rows.jsonl, line 1"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, name, content, what, where):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_prompts(tmp_path / name, as_messages=False, is_normalized=True)
    assert what in error.value.what and error.value.where.endswith(where) and error.value.to_do


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    for name in ("none.txt", "none.jsonl", "folder.txt"):
        with pytest.raises(UserError, match="the file cannot be read"):
            read_prompts(tmp_path / name, as_messages=False, is_normalized=True)
