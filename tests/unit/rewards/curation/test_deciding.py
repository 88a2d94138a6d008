"""What happens to duplicates, contradictions, several raters and near-duplicates; every row has one end."""

import random
from collections import Counter

import numpy as np
import pytest

from configs.curation import CurationConfig
from rewards.comparisons import PromptRecord
from rewards.curation.applying import Curator, repeated_in
from rewards.curation.deciding import contradictions, decide
from rewards.curation.ledger import KEEP
from rewards.curation.sketches import Sketches
from rewards.data.splits import content_id
from tests.unit.rewards.curation.pairs import pair, sketch

LONG = "แม่น้ำสายนี้มีต้นน้ำอยู่บนภูเขา ไหลผ่านที่ราบกว้างใหญ่ แล้วไหลลงสู่ทะเล"


def ends(pairs, max_pairs=None, **settings):
    """What happens to each pair: `keep`, or the reason or part."""
    found = decide(sketch(pairs), CurationConfig(**settings), max_pairs, 0)
    return [end.why or end.step for end in found.ends]


def test_duplicates():
    """The second row says what the first one says. The others are another prompt, another end, a tie, and another order."""
    pairs = [pair(), pair(), pair("r"), pair(chosen_finished=False), pair(tie=True), pair(chosen="b", rejected="a")]
    assert ends(pairs) == ["keep"] * 6
    assert ends(pairs, duplicates="remove") == ["keep", "said before", "keep", "keep", "keep", "keep"]


def test_ties_in_both_orders_are_the_same_judgement():
    pairs = [pair("ถาม", "ก", "ข", tie=True), pair("ถาม", "ข", "ก", tie=True)]
    assert ends(pairs, duplicates="remove") == ["keep", "said before"]


def test_the_same_judgement_by_two_raters_is_no_duplicate():
    pairs = [pair(rater="ann"), pair(rater="bob"), pair(rater="ann")]
    assert ends(pairs, duplicates="remove") == ["keep", "keep", "said before"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("keep", ["keep"] * 4),
        ("remove", ["contradiction", "contradiction", "contradiction", "keep"]),
        ("move", ["prompts only", "prompts only", "prompts only", "keep"]),
        ("majority", ["keep", "outvoted", "keep", "keep"]),  # two against one
    ],
)
def test_contradictions(choice, expected):
    pairs = [pair(), pair(chosen="b", rejected="a"), pair(), pair("another")]
    assert ends(pairs, contradictions=choice) == expected


def test_one_against_one_has_no_majority():
    pairs = [pair(), pair(chosen="b", rejected="a")]
    assert ends(pairs, contradictions="majority") == ["contradiction without a majority"] * 2


def test_a_tie_contradicts_nothing_but_has_a_vote():
    decided, opposite, tie = pair(), pair(chosen="b", rejected="a"), pair(tie=True)
    assert ends([decided, tie], contradictions="remove") == ["keep", "keep"]
    assert ends([decided, opposite, tie, tie], contradictions="majority") == ["outvoted", "outvoted", "keep", "keep"]
    assert [places.tolist() for places in contradictions(sketch([tie, decided, decided, opposite]))] == [[0, 1, 2, 3]]


def test_raters_become_one_row():
    """Of five raters, three prefer a. The sixth row has no rater, so it is nobody's vote."""
    a, b = pair(), {"chosen": "b", "rejected": "a"}
    pairs = [pair(rater="1", **b), pair(rater="2"), pair(rater="3"), pair(rater="4", tie=True), pair(rater="5"), a]
    merged = "merged into the majority of the raters"
    assert ends(pairs) == ["keep"] * 6
    assert ends(pairs, raters="majority") == [merged, "keep", merged, merged, merged, "keep"]


def test_raters_without_a_majority():
    pairs = [pair(rater="1"), pair(rater="2", chosen="b", rejected="a")]
    assert ends(pairs, raters="majority") == ["no majority among the raters"] * 2
    assert ends([pair(rater="1"), pair(rater="1")], raters="majority") == ["keep", "keep"]  # one rater is not several
    twice = [
        pair(rater="ann"),
        pair(rater="ann"),
        pair(chosen="b", rejected="a", rater="bob"),
    ]  # one against one, however often ann says so
    assert ends(twice, raters="majority") == ["no majority among the raters"] * 3


def test_what_the_raters_agree_on_can_still_contradict_others():
    pairs = [pair(rater="1"), pair(rater="2"), pair(chosen="b", rejected="a")]
    merged = "merged into the majority of the raters"
    assert ends(pairs, raters="majority", contradictions="remove") == ["contradiction", merged, "contradiction"]


def test_prompts_near_a_held_out_one():
    pairs = [(pair(LONG), "heldout"), (pair(LONG + "?"), "training"), (pair("Which sea is it?"), "training"), (pair(LONG + "!"), "labeler")]
    assert ends(pairs) == ["held out", "keep", "keep", "the labeler"]
    near = "nearly a held-out prompt"
    assert ends(pairs, near_heldout="remove") == ["held out", near, "keep", near]
    assert decide(sketch(pairs), CurationConfig(), None, 0).near.tolist() == [False, True, False, True]
    assert decide(sketch(pairs), CurationConfig(near_heldout="ignore"), None, 0).near is None


def test_only_prompts_that_are_used_are_compared():
    """Each topic has a held-out prompt and two that are nearly equal to it, and `max_pairs` draws a third of all. The reference hashes
    every prompt; the curator only those that may still be drawn. A prompt without a pair is compared whether it is drawn or not."""
    sides = ("heldout", "training", "training")
    topics = ["".join(random.Random(topic).choices("กขคงจฉชซดตถทนบปผพฟมยรลวสหอ", k=60)) for topic in range(60)]
    pairs = [(pair(topic + "?" * end), sides[end]) for topic in topics for end in range(3)]
    reference = decide(sketch(pairs), CurationConfig(near_heldout="remove"), 60, 0)
    curator = Curator(CurationConfig(near_heldout="remove"), 60, 0)
    for row, side in pairs:
        may_be_used = curator.draws()
        curator.add(row, side if may_be_used else None, may_be_used=may_be_used)
    ends = [decision.end for decision in curator.decide()]
    assert ends == reference.ends
    drawn = [end.why != "beyond data.max_pairs" for end in ends]
    asked = {topic for topic in range(60) if drawn[3 * topic]}  # those whose held-out prompt was drawn
    near = [i for i, end in enumerate(ends) if end.why == "nearly a held-out prompt"]
    assert near == [i for i in range(len(pairs)) if i % 3 and drawn[i] and i // 3 in asked] and len(near) > 5
    assert np.flatnonzero(reference.near).tolist() == near and curator.repeated["near_heldout"] == len(near)
    assert len(curator.sketches.near_prompts) < len(pairs)

    first, other = min(asked), min(set(range(60)) - asked)
    for topic in (first, other):
        record = PromptRecord(content_id(f"{topics[topic]}!"), f"{topics[topic]}!", "prompts")
        curator.add_prompt(record, "training")
        curator.decide()
        assert curator.is_near_heldout(record.prompt_id) == (topic == first)


@pytest.mark.parametrize("max_pairs", [None, 2])
def test_a_moved_prompt_near_a_held_out_one_is_removed(max_pairs):
    """Also with `max_pairs`, which draws among the pairs that are trained on: a moved prompt is asked whether it draws or not."""
    near = LONG + "?"
    pairs = [(pair(LONG), "heldout"), (pair(near), "training"), (pair(near, chosen="b", rejected="a"), "training"), (pair(), "training")]
    found = ends(pairs, max_pairs, contradictions="move", near_heldout="remove")
    assert found == ["held out", *["nearly a held-out prompt"] * 2, "keep"]


def test_moved_prompts_are_not_asked_where_only_the_labeler_trains():
    pairs = [(pair(), "labeler"), (pair(chosen="b", rejected="a"), "labeler")]
    assert ends(pairs, contradictions="move") == ["contradiction"] * 2


def test_a_limit_counts_what_is_left():
    pairs = [pair()] * 5 + [pair(f"q{i}") for i in range(5)]
    found = Counter(ends(pairs, max_pairs=4, duplicates="remove"))
    assert found == {"said before": 4, "beyond data.max_pairs": 2, "keep": 4}


def test_random_rows_against_a_slow_count():
    """300 rows of few prompts and answers, and sides by prompt. With everything on, no pair of answers is left with two verdicts."""
    rng = random.Random(0)
    pairs = []
    for _ in range(300):
        prompt = rng.randrange(12)
        chosen, rejected = rng.sample("กขคง", 2)
        row = pair(f"{prompt}", chosen, rejected, rater=rng.choice(["", "ann", "bob"]), tie=rng.random() < 0.2)
        pairs.append((row, ("training", "heldout", "labeler")[prompt % 3]))
    sketches = sketch(pairs)
    config = CurationConfig(duplicates="remove", raters="majority", contradictions="majority")
    found = decide(sketches, config, None, 0).ends
    said = {(p.prompt, p.rater, "" if p.tie else p.chosen, frozenset((p.chosen, p.rejected))) for p, _ in pairs}
    assert sum(end.why == "said before" for end in found) == len(pairs) - len(said)
    left = [(row, side) for (row, side), end in zip(pairs, found, strict=True) if end == KEEP or end.step == "move"]
    orders = {}
    for row, _ in left:
        if not row.tie:
            orders.setdefault((row.prompt, frozenset((row.chosen, row.rejected))), set()).add(row.chosen)
    assert len(left) > 20 and all(len(preferred) == 1 for preferred in orders.values())
    assert all((end == KEEP) == (side == "training") for (_, side), end in zip(pairs, found, strict=True) if end.step != "remove")


def test_what_is_repeated_among_the_rows_of_a_reward_model_is_counted():
    """The second row says what the first says, and the third says the opposite of both. The others are about other completions."""
    rows = [pair(), pair(generation=0), pair(chosen="b", rejected="a"), pair(chosen="c"), pair("r", tie=True)]
    assert repeated_in(rows) == {"duplicates": 1, "contradictions": 1}


def test_max_pairs_draws_the_same_pairs_while_they_come_in():
    """The reference draws once all pairs are there. A pair that was refused on its way in is not drawn, and most are refused."""
    pairs, curator = [pair(f"question {i}") for i in range(200)], Curator(CurationConfig(), 10, 0)
    stays = []
    for row in pairs:
        stays.append(curator.draws())
        curator.add(row, "training" if stays[-1] else None, may_be_used=stays[-1])
    decided = curator.decide()
    assert [decision.side for decision in decided] == ["training" if stay else None for stay in stays]
    assert [decision.end.why or decision.end.step for decision in decided] == ends(pairs, max_pairs=10)
    kept = [decision.end == KEEP for decision in decided]
    assert sum(kept) == 10 and all(stay for stay, is_kept in zip(stays, kept, strict=True) if is_kept)
    assert sum(stays) < 100  # in the mean 10 (1 + ln 20) = 40


def test_the_side_of_a_prompt_is_that_of_the_first_pair_that_may_be_used():
    """Nobody looks for the side of a pair that is turned away, and a later one with the same prompt may be drawn."""
    sketches = Sketches(compares_prompts=True)
    for side in (None, "heldout", None):
        sketches.add(pair("question"), side, compares=side is not None)
    assert sketches.heldout_prompts.tolist() == [True] and sketches.on("heldout").tolist() == [False, True, False]


def test_a_curator_that_was_not_asked_says_so():
    curator = Curator(CurationConfig(), 10, 0)
    curator.add(pair("question"), "training")
    with pytest.raises(ValueError, match="1 pairs were added, but `draws` was asked about 0"):
        curator.decide()
