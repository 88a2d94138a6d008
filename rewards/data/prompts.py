"""Prompts that somebody wrote into a file, to be answered by a policy of a run. Imports no ML library."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from configs.errors import UserError
from rewards.comparisons import Prompt, PromptRecord
from rewards.data.json_lines import BLANK, decode, read_json_lines
from rewards.data.normalizing import normalize_prompt
from rewards.data.rows import parse_prompt
from rewards.data.splits import content_id
from rewards.data.unpacking import file_kind, opened
from rewards.data.unusable import BadLine, BadRow

TO_DO = 'give a .jsonl file of rows like {"prompt": "..."}, or a .txt file with one prompt a line'


def read_prompts(path: Path, as_messages: bool, is_normalized: bool) -> list[PromptRecord]:
    """The prompts of a file, in order: .jsonl (perhaps packed) with rows that have `prompt` and perhaps `source`, or .txt, one a line.

    as_messages: a line of text is one message of the user, and not plain text. is_normalized: see `normalizing.py`. Raises UserError for
    any other file, with the line if there is one to blame, and for a file without a prompt.
    """
    if file_kind(path.name) == "jsonl":
        records = list(_from_json_lines(path))
    elif path.suffix == ".txt":
        records = list(_from_text(path, as_messages))
    else:
        raise UserError("the name of the file with the prompts ends neither in .jsonl nor in .txt", str(path), TO_DO)
    if not records:
        raise UserError("there is no prompt in the file", str(path), TO_DO)
    return [_record(normalize_prompt(prompt, Counter()) if is_normalized else prompt, source) for prompt, source in records]


def _record(prompt: Prompt, source: str) -> PromptRecord:
    return PromptRecord(content_id(prompt), prompt, source)


def _from_json_lines(path: Path) -> Iterator[tuple[Prompt, str]]:
    for place, row in read_json_lines(path):
        try:
            prompt = parse_prompt(row)
        except BadRow as error:
            raise UserError(f"{place} cannot be used: {error}", f"{path}, {place}", TO_DO) from None
        yield prompt, str(row.get("source") or "")


def _from_text(path: Path, as_messages: bool) -> Iterator[tuple[Prompt, str]]:
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                text = decode(line).strip(BLANK)
            except BadLine as bad:
                raise UserError(bad.what, f"{path}, line {number}", bad.to_do) from None
            if text:
                yield [{"role": "user", "content": text}] if as_messages else text, ""
