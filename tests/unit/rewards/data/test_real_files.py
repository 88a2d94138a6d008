"""Every row of a real file comes out once: used, or left out for a reason that was counted by other means."""

import gzip
import json
from collections import Counter

import pytest

from rewards.comparisons import Comparison
from rewards.data.reading import ReadRow
from rewards.data.unusable import Unusable
from tests.unit.rewards.data.sources import read

REAL = [
    # folder, file, settings -> rows, used, records, and the reasons for the rows that are left out
    ("hh_harmless", "pairs.jsonl.gz", {}, 1629, 1625, 1625, {"chosen is empty": 3, "the dialogues differ before the last answer": 1}),
    ("llmbar", "llmbar.jsonl.gz", {}, 885, 883, 883, {"chosen and rejected are the same": 1, "output_2 is empty": 1}),
    ("gsm8k", "train.jsonl.gz", {}, 7473, 7473, 7473, {}),
    ("conala", "*.jsonl.gz", {}, 3275, 3275, 3275, {}),
    ("oasst_en100", "samples_*.jsonl.gz", {}, 300, 300, 300, {}),
    ("tatoeba_en_th", "tatoeba_en_th.jsonl.gz", {"columns": {"prompt": "th"}}, 548, 548, 548, {}),
    ("xquad_th_en", "xquad_th.jsonl.gz", {"columns": {"prompt": "question"}}, 1190, 1190, 1190, {}),
    ("thai_prompts_broken", "vincuna_th.BROKEN.jsonl", {"columns": {"prompt": "text_th"}}, 80, 40, 40, {"not JSON": 40}),
]


@pytest.mark.parametrize(("folder", "file", "settings", "rows", "used", "held", "left_out"), REAL, ids=[case[0] for case in REAL])
def test_real_files(shared_data, folder, file, settings, rows, used, held, left_out):
    """The numbers of rows are those of shared/data/README.md; that of conala is the sum over its languages."""
    found = read(shared_data / folder / file, **settings)
    assert len(found) == rows
    assert Counter(row.reason for row in found if isinstance(row, Unusable)) == left_out
    good = [row for row in found if isinstance(row, ReadRow)]
    assert (len(good), sum(len(row.records) for row in good)) == (used, held) and used + sum(left_out.values()) == rows


def test_real_raters(shared_data):
    """PandaLM: every row that is left out has an answer that is empty or no text, and every other has three raters."""
    found = read(shared_data / "pandalm_test" / "testset-v1.jsonl.gz")
    assert len(found) == 999
    assert {row.reason.split(maxsplit=1)[1] for row in found if isinstance(row, Unusable)} == {"is empty", "is not text"}
    assert all(len(row.records) == 3 for row in found if isinstance(row, ReadRow))


def test_real_trees(shared_data):
    """Open-Assistant: as many pairs as a count of the ranked answers below each message of a user says, n (n - 1) / 2 each."""

    def count(message):
        ranked = [r for r in message["replies"] if message["role"] == "prompter" and r.get("rank") is not None]
        return len(ranked) * (len(ranked) - 1) // 2 + sum(count(reply) for reply in message["replies"])

    path = shared_data / "oasst_en100" / "en_100_tree.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        expected = [count(json.loads(line)["prompt"]) for line in file]
    found = read(path)
    assert [len(row.records) for row in found] == expected and sum(expected) == 754
    assert all(isinstance(record, Comparison) for row in found for record in row.records)
    assert Counter(reason for row in found for reason in row.left_out) == {
        "an answer has no rank": 1,
        "an answer has no rank and no score": 5,
    }


def test_real_votes(shared_data):
    """Stack Exchange: no tag is left in a text, code is kept, and the rows add up."""
    found = read(shared_data / "stackexchange" / "genai.jsonl.gz")
    left_out = Counter(row.reason for row in found if isinstance(row, Unusable))
    pairs = [record for row in found if isinstance(row, ReadRow) for record in row.records]
    assert len(found) == 181 and left_out["a question with fewer than two answers"] == 39 + 84
    texts = [text for pair in pairs for text in (pair.prompt, pair.chosen, pair.rejected)]
    assert not any(tag in text for text in texts for tag in ("<p>", "</li>", "<a href", "&lt;", "&nbsp;"))
    assert any("```\n" in text for text in texts)
