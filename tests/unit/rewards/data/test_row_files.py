"""Records in files: read in blocks as they are read one by one, and the line of a prompt out of the line of its pair."""

import pytest

from rewards.comparisons import Comparison, PromptRecord, prompt_line, to_line
from rewards.data import row_files
from rewards.data.row_files import RowFile, StoredRows

TURN = {"role": "user", "content": 'say ", "chosen": "no", please'}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": "f", "chosen": 1}]}
PROMPTS = ["ถาม", 'a ", "chosen": "b', "", [TURN], [TURN, CALL, TURN], 'ends with a backslash \\", "chosen": ']


def pair(prompt, number=0):
    return Comparison(f"p{number}", prompt, 'x ", "chosen": y', "z\n\u2028", source='mails/"a"', tie=True)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_line_of_a_prompt(prompt):
    row = pair(prompt)
    assert prompt_line(to_line(row).encode(), row.source) == to_line(PromptRecord(row.prompt_id, prompt, row.source)).encode()


@pytest.mark.parametrize("block", [2, 500, 1 << 18])
def test_lines_are_read_in_blocks(tmp_path, monkeypatch, block):
    """A line has some 350 bytes, so a block of 2 holds less than one of them, and one of 500 one or two."""
    monkeypatch.setattr(row_files, "BUFFER", block)
    rows = [pair(prompt, number) for number, prompt in enumerate(PROMPTS)]
    file = RowFile(Comparison, tmp_path)
    for row in rows:
        file.append(row)
    assert list(file) == rows and list(file.lines()) == [file.line(number) for number in range(len(rows))]
    file.append(rows[0])  # reading has not moved the end
    file.write(tmp_path / "rows.jsonl")
    stored = StoredRows.of(tmp_path / "rows.jsonl", Comparison)
    assert list(zip(stored, stored.lines(), strict=True)) == [(row, to_line(row).encode()) for row in [*rows, rows[0]]]
    assert list(RowFile(Comparison, tmp_path)) == []
