"""The bag of words learns words and nothing else, and a reward model is judged beside it."""

import random
from dataclasses import replace

import pytest

from rewards.baselines import describe_unbeaten, find_unbeaten, fit_bag_of_words, judge_beside, shortest, terms
from rewards.comparisons import Answer, Comparison
from rewards.reward_model import outcomes

WORDS = [f"word{i}" for i in range(30)]


def make_pairs(number, good, bad, seed=0, glue=" "):
    """Answers of five random words, with `good` among the chosen ones' and `bad` among the rejected ones'. Each has its own prompt."""
    draw = random.Random(seed)

    def text(planted):
        words = [*draw.choices(WORDS, k=5), planted]
        draw.shuffle(words)
        return glue.join(words)

    return [Comparison(f"p{seed}-{i}", f"question {seed}-{i}?", text(good), text(bad)) for i in range(number)]


def swap(pair):
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen)


def accuracy(chooser, pairs):
    return outcomes(chooser, pairs).accuracy()["accuracy"]


def test_terms_by_hand():
    """Two words and their pair; of a Thai run all sequences of 1 to 4 characters, vowel signs too; nothing across the two scripts."""
    assert terms("Yes, NO!") == ["yes", "no", "yes no"]
    assert terms("ดีมี") == ["ด", "ี", "ม", "ี", "ดี", "ีม", "มี", "ดีม", "ีมี", "ดีมี"]
    assert terms("OK ค่ะ ok") == ["ok", "ok", "ค", "่", "ะ", "ค่", "่ะ", "ค่ะ"]
    assert terms("") == terms(" ...") == []


@pytest.mark.parametrize(
    ("good", "bad", "glue"),
    [("please", "never", " "), ("Yes please", "please Yes", " "), ("ครับ", "เฮ้ย", "ไทย")],
    ids=["word", "order", "thai"],
)
def test_a_bag_of_words_learns_a_planted_word(good, bad, glue):
    """A word, the order of two words that occur on both sides, and a word inside a Thai run without spaces."""
    chooser = fit_bag_of_words(make_pairs(300, good, bad, glue=glue))
    assert accuracy(chooser, make_pairs(200, good, bad, seed=1, glue=glue)) > 0.95


def test_labels_that_mean_nothing_teach_nothing():
    """Half of the labels are turned round, in training and in judging. 400 pairs have a standard error of 0.025; 0.1 is four of them."""
    draw = random.Random(7)
    training, heldout = ([swap(p) if draw.random() < 0.5 else p for p in make_pairs(n, "yes", "no", seed=n)] for n in (300, 400))
    assert abs(accuracy(fit_bag_of_words(training), heldout) - 0.5) < 0.1


def test_ties_teach_nothing():
    pairs = make_pairs(50, "yes", "no")
    ties = [replace(swap(pair), tie=True) for pair in make_pairs(500, "yes", "no", seed=2)]
    answers = [Answer(pair.prompt, pair.chosen, True) for pair in pairs]
    assert fit_bag_of_words(pairs + ties)(answers) == fit_bag_of_words(pairs)(answers)


def test_a_reward_model_beside_a_baseline_by_hand():
    """Four pairs. The model is right in all, the shorter one wins in two: the differences are 0, 0, 1, 1.

    Their mean is 0.5 and their standard error sqrt(4/3 x 4 x 0.25) / 4 = sqrt(1/12): the sum of squares is 1, G / (G - 1) = 4/3.
    """
    pairs = [Comparison(f"p{i}", f"q{i}", "good" if i < 2 else "very good", "worse") for i in range(4)]

    def model(answers):
        return [float("good" in answer.completion) for answer in answers]

    found = judge_beside(model, {"shorter_wins": shortest}, pairs)
    assert found["accuracy_heldout"]["accuracy"] == 1.0 and found["shorter_wins"]["accuracy"] == 0.5
    assert found["accuracy_over_shorter_wins"] == {"mean": 0.5, "standard_error": pytest.approx((1 / 12) ** 0.5), "count": 4}
    assert find_unbeaten(found, {"shorter_wins": shortest}) == []
    assert find_unbeaten(judge_beside(shortest, {"bag_of_words": model}, pairs), {"bag_of_words": model}) == ["bag_of_words"]


@pytest.mark.parametrize(("mean", "unbeaten"), [(0.021, False), (0.02, True), (0.0, True), (-0.1, True), (None, False)])
def test_better_means_better_by_more_than_a_standard_error(mean, unbeaten):
    found = {"accuracy_over_shorter_wins": {"mean": mean, "standard_error": None if mean is None else 0.02, "count": 9}}
    assert find_unbeaten(found, {"shorter_wins": shortest}) == ["shorter_wins"] * unbeaten


def test_one_prompt_says_nothing():
    found = judge_beside(shortest, {"shorter_wins": shortest}, [Comparison("p", "q", "a", "bb")])
    assert found["accuracy_over_shorter_wins"]["standard_error"] is None and find_unbeaten(found, {"shorter_wins": shortest}) == []


def test_the_description_names_what_is_not_beaten():
    right, other = ({"accuracy": value, "standard_error": 0.032, "pairs": 247} for value in (0.543, 0.62))
    found = {"accuracy_heldout": right, "shorter_wins": other, "bag_of_words": other}
    assert describe_unbeaten("the model", found, ["bag_of_words"]) == (
        "the model (accuracy 0.543 ± 0.032 on 247 held-out pairs) is not clearly better than a bag of words (0.620 ± 0.032)"
    )
