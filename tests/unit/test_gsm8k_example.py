"""The example of verifiable rewards that users copy, on rows that the test makes, and on those of the real file."""

import importlib.util
import json
from pathlib import Path

import pytest

from rewards.comparisons import Answer, Sample
from rewards.gold import find_gold
from rewards.labelers.picking import Pair

EXAMPLE = Path(__file__).parents[2] / "examples" / "gsm8k_reward.py"


def write_rows(folder, count):
    """Sums of two numbers, in the form of GSM8K."""
    rows = [
        {"question": f"Ann has {i} apples and buys {i + 1}. How many are there?", "answer": f"{i} + {i + 1}\n#### {2 * i + 1}"}
        for i in range(count)
    ]
    (folder / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, 600)
    (tmp_path / "gsm8k_reward.py").write_bytes(EXAMPLE.read_bytes())
    spec = importlib.util.spec_from_file_location("example_of_gsm8k", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "number"),
    [("2 + 3 = 5\n#### 5", 5.0), ("#### 1,000", 1000.0), ("#### $5.00", 5.0), ("#### -3 apples", -3.0), ("It is 5.", None), ("####", None)],
)
def test_the_number_at_the_end(example, text, number):
    assert example.final_number(text) == number


def test_a_right_number_a_wrong_one_and_none(example):
    """Row 2: 2 + 3 = 5."""
    prompt = example.prompt_of(example.rows()[2]["question"])
    texts = {"2 + 3\n#### 5": 1.0, "#### 5.0": 1.0, "#### 4": 0.1, "It is 5.": 0.0}
    assert example.score([Answer(prompt, text, True) for text in texts]) == list(texts.values())
    right, wrong, also = (Sample(str(k), "p", prompt, text, True, 0, k) for k, text in enumerate(("#### 5", "#### 4", "so\n#### 5")))
    assert example.judge([Pair(right, wrong, 0.5), Pair(wrong, right, 0.5), Pair(right, also, 0.5)]) == [1.0, 0.0, None]
    gold = find_gold("gsm8k_reward.py:pairs", "gsm8k_reward.py:score")
    assert gold([right, wrong]) == {"0": 1.0, "1": 0.1}


def test_each_row_gives_a_pair_that_differs_in_its_number(example):
    rows = list(example.pairs())
    assert len(rows) == 600
    assert rows[2]["chosen"][0]["content"].endswith("#### 5") and rows[2]["rejected"][0]["content"].endswith("#### 6")


def test_every_row_of_the_real_file_has_a_number(example, shared_data, monkeypatch):
    monkeypatch.setenv("GSM8K", str(shared_data / "gsm8k" / "train.jsonl.gz"))
    example.rows.cache_clear()
    assert len(example.rows()) == 7473 and all(example.final_number(row["answer"]) is not None for row in example.rows())
