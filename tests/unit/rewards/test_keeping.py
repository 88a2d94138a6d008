"""Which completions are kept as training data: the best of each prompt, newest rounds first, without defects and without repeats."""

import json
from collections import Counter

from configs.schema import KeepConfig
from rewards.comparisons import Comparison, Sample, write_jsonl
from rewards.keeping import FILE, Kept, draw_original, keep, rank, read_kept
from rewards.rules import find_rules


def row(prompt, text, score=0.0, generation=1, finished=True):
    return Kept(f"{generation}-{generation}-{prompt}-{text}", prompt, f"question {prompt}", text, finished, generation, score, "mail")


def sample(prompt, text, k=0):
    return Sample(f"1-1-{prompt}-{k}", prompt, f"question {prompt}", text, True, 1, k, "mail")


def texts(rows):
    return [(row.prompt_id, row.completion) for row in rows]


def kept_of(candidates, filters=(), **settings):
    config = KeepConfig(filters=list(filters), **settings)
    return keep(candidates, config, find_rules(config.filters))


def test_each_prompt_keeps_the_ones_with_the_highest_scores():
    """Of three completions with scores 1, 3 and 2, the second and third are kept, in this order."""
    ranked = rank([[sample("p", "a", 0), sample("p", "b", 1), sample("p", "c", 2)]], [[1.0, 3.0, 2.0]], seed=0)
    assert texts(ranked) == [("p", "b"), ("p", "c"), ("p", "a")] and [row.score for row in ranked] == [3.0, 2.0, 1.0]
    kept, left_out = kept_of(ranked, per_prompt=2)
    assert texts(kept) == [("p", "b"), ("p", "c")] and left_out == {"beyond keep.per_prompt": 1}
    assert (kept[0].id, kept[0].generation, kept[0].source) == ("1-1-p-1", 1, "mail")


def test_of_equal_scores_the_first_sample_is_the_best():
    assert texts(rank([[sample("p", "a"), sample("p", "b")]], [[1.0, 1.0]], seed=0)) == [("p", "a"), ("p", "b")]


def test_prompts_come_in_an_order_that_the_seed_decides():
    """A limit on the rows must not favor the beginning of the data. Ten prompts have 3.6 million orders."""
    samples, scores = [[sample(str(i), "a")] for i in range(10)], [[0.0]] * 10
    orders = [tuple(row.prompt_id for row in rank(samples, scores, seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[2]) == [str(i) for i in range(10)]


def test_a_completion_with_a_defect_makes_room_for_the_next_one():
    """The best is empty and the second repeats itself, so the third is kept."""
    candidates = [row("p", " "), row("p", "It is yellow. It is yellow."), row("p", "It is yellow."), row("q", "cut off", finished=False)]
    kept, left_out = kept_of(candidates, ["empty", "repetition", "missing_end"])
    assert texts(kept) == [("p", "It is yellow.")]
    assert left_out == {"empty": 1, "repetition": 1, "missing_end": 1}
    assert kept_of(candidates)[0] == [candidates[0], candidates[3]]


def test_equal_texts_of_a_prompt_are_kept_once_and_those_of_two_prompts_twice():
    kept, left_out = kept_of([row("p", "yes"), row("p", "yes"), row("p", "no"), row("q", "yes")], per_prompt=3)
    assert texts(kept) == [("p", "yes"), ("p", "no"), ("q", "yes")] and left_out == {"equal text": 1}


def test_newer_rounds_come_first():
    """Two rows a prompt, four in all. p has one of each round; its second row of round 0 is one too many. The text that round 1 has again
    is that of round 1. Of the five rows that are left, the last one of the oldest round goes."""
    newest = [row("p", "new"), row("q", "same")]
    earlier = [row("p", "old", generation=0), row("p", "older", generation=0), row("q", "same", generation=0)]
    earlier += [row("r", "old", generation=0), row("s", "old", generation=0)]
    kept, left_out = kept_of([*newest, *earlier], per_prompt=2, max_rows=4)
    assert kept == [newest[0], newest[1], earlier[0], earlier[3]]
    assert left_out == {"beyond keep.per_prompt": 1, "equal text": 1, "beyond keep.max_rows": 1}


def test_keeping_again_what_was_kept_changes_nothing():
    """As in a round whose samples are all left out."""
    candidates = [row(str(i % 7), f"text {i % 11}") for i in range(60)]
    kept, left_out = kept_of(candidates, per_prompt=3, max_rows=15)
    assert len(kept) == 15 and len(kept) + left_out.total() == 60
    assert kept_of(kept, per_prompt=3, max_rows=15) == (kept, Counter())


def test_the_file_has_trls_prompt_completion_format(tmp_path):
    """A prompt of messages has a completion of messages, as TRL's SFTTrainer wants it."""
    messages = [{"role": "user", "content": "What colour?"}]
    rows = [row("p", "Yellow."), Kept("1-1-q-0", "q", messages, "สีเหลืองค่ะ", True, 1, 0.5)]
    write_jsonl(tmp_path / FILE, [kept.row() for kept in rows])
    first, second = (json.loads(line) for line in (tmp_path / FILE).read_text(encoding="utf-8").splitlines())
    assert (first["prompt"], first["completion"]) == ("question p", "Yellow.")
    assert second["prompt"] == messages and second["completion"] == [{"role": "assistant", "content": "สีเหลืองค่ะ"}]
    assert second.keys() >= {"id", "generation", "score", "source"}
    assert read_kept(tmp_path) == rows


def test_original_pairs_are_the_stated_share_of_all_rows():
    """Beside 30 kept rows, 10 original ones are a quarter. Ties and a share of 0 give none, and there may be too few."""
    pairs = [Comparison(f"p{i}", "q", "a", "b", tie=i % 2 == 1) for i in range(60)]
    drawn = draw_original(pairs, 30, 0.25, seed=0)
    assert len(drawn) == 10 and not any(pair.tie for pair in drawn)
    assert drawn == draw_original(pairs, 30, 0.25, seed=0) != draw_original(pairs, 30, 0.25, seed=1)
    assert draw_original(pairs, 30, 0.0, seed=0) == []
    assert len(draw_original(pairs, 300, 0.5, seed=0)) == 30
