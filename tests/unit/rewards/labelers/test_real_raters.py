"""999 real pairs with three raters each (PandaLM's test set): every vote is accounted for, and the majority is the majority."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest

from rewards.labelers.matching import CANNOT_BE_USED
from rewards.labelers.preferences_file import compare_by_file
from tests.unit.rewards.labelers.tasks import file_task

RATERS = ("annotator1", "annotator2", "annotator3")


def is_usable(row):
    texts = [row["response1"], row["response2"]]
    return all(isinstance(text, str) and text.strip() for text in texts) and texts[0] != texts[1]


def test_three_raters_of_real_pairs(shared_data, tmp_path):
    with gzip.open(shared_data / "pandalm_test" / "testset-v1.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    path = tmp_path / "labels-0.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            for rater in RATERS:
                chosen, rejected = ("response2", "response1") if row[rater] == 2 else ("response1", "response2")
                label = {"prompt": f"{row['idx']}: {row['instruction']}", "chosen": row[chosen], "rejected": row[rejected]}
                file.write(json.dumps(label | {"tie": row[rater] == 0, "rater": rater}) + "\n")

    def read(raters):
        return compare_by_file(file_task([], tmp_path / "labels-{round}.jsonl", bad_rows="skip", raters=raters))

    good = [row for row in rows if is_usable(row)]
    votes = [[row[rater] for rater in RATERS] for row in good]
    every, majority = read("all"), read("majority")
    assert len(every.comparisons) == 3 * len(good) and every.left_out == {CANNOT_BE_USED: 3 * (len(rows) - len(good))}
    expected = Counter(next((vote for vote, count in Counter(of_row).items() if count > 1), 0) == 0 for of_row in votes)
    assert Counter(row.tie for row in majority.comparisons) == expected and len(majority.comparisons) == len(good)
    assert majority.metrics["contradictions"] == sum({1, 2} <= set(of_row) for of_row in votes)
    # Alpha by its definition: the share of unequal pairs of values within a pair of answers, over that among all values. In both orders,
    # because the two answers have none: with 1 and 2 exchanged.
    values = np.array(votes + [[(0, 2, 1)[vote] for vote in of_row] for of_row in votes])
    within = np.mean([values[:, i] != values[:, j] for i, j in ((0, 1), (0, 2), (1, 2))])
    flat = values.ravel()
    among = (flat[:, None] != flat[None, :]).sum() / (flat.size * (flat.size - 1))
    assert majority.metrics["rater_alpha"] == pytest.approx(1 - within / among)
    by_prompt = {row.prompt: row for row in majority.comparisons}
    for row, of_row in zip(good, votes, strict=True):
        if len(set(of_row)) == 1 and of_row[0]:
            found = by_prompt[f"{row['idx']}: {row['instruction']}"]
            assert (found.chosen, found.tie, found.confidence) == (row[f"response{of_row[0]}"], False, 1.0)
