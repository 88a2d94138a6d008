"""Which pairs a labeler is asked about: the budget, the random share, and those that are worth a label most."""

from collections import Counter
from typing import get_args

import pytest

from configs import UserError
from configs.schema import LabelerConfig
from rewards.comparisons import Sample
from rewards.labelers.pairs import judge_by_scores, label_by_judge
from rewards.labelers.picking import RANDOM, choose_pairs, pick_pairs
from rewards.selectors.worth import WORTH
from tests.unit.rewards.labelers.tasks import SPLIT, make_task

TRAINING = [f"prompt {p}" for p in range(100) if not SPLIT.holds_out(f"prompt {p}")]
HELDOUT = [f"prompt {p}" for p in range(100) if SPLIT.holds_out(f"prompt {p}")]


def samples(n=4, prompts=(*TRAINING, *HELDOUT)):
    return [Sample(f"{prompt}-{k}", prompt, prompt, f"answer {k}", True, 0, k) for prompt in prompts for k in range(n)]


def task(asked=None, committee=(), seed=0, **settings):
    asked = asked or samples()
    config = LabelerConfig.model_validate(settings)
    return make_task(asked, config, seed=seed, committee=dict(enumerate(committee)))


def names(pairs):
    return [(pair.first.id, pair.second.id) for pair in pairs]


def is_training(pair):
    return pair.first.prompt in TRAINING


def test_without_a_budget_every_prompt_has_its_random_pairs():
    """The same pairs as `choose_pairs` draws, in the same order: what a run did before there was a budget."""
    assert pick_pairs(task(pairs_per_prompt=3)) == choose_pairs(samples(), 3, 0)
    assert {pair.picked for pair in pick_pairs(task())} == {"random"}


@pytest.mark.parametrize("pick", [RANDOM, *WORTH])
@pytest.mark.parametrize("budget", [1, 97, None])
def test_the_budget_is_met_exactly_and_held_out_prompts_are_outside_of_it(pick, budget):
    """Each prompt has 6 pairs, of which 4 may be compared. The committee has scored all samples."""
    committee = [{sample.id: float(sample.k) for sample in samples()}, {sample.id: float(-sample.k % 3) for sample in samples()}]
    pairs = pick_pairs(task(committee=committee, pick=pick, budget=budget, pairs_per_prompt=4))
    training = list(filter(is_training, pairs))
    assert len(training) == (budget or 4 * len(TRAINING)) and len(set(names(pairs))) == len(pairs)
    assert max(Counter(pair.prompt_id for pair in pairs).values()) <= 4
    random_ones = [pair for pair in choose_pairs(samples(), 4, 0) if not is_training(pair)]
    assert [pair for pair in pairs if not is_training(pair)] == random_ones
    marked = Counter(pair.picked for pair in training)
    share = len(training) if pick == RANDOM else round(0.25 * len(training))
    assert marked == Counter({RANDOM: share}) + Counter({pick: len(training) - share} if pick != RANDOM else {})


def test_a_budget_that_the_samples_cannot_meet_is_refused():
    """Two completions of each training prompt: one pair each."""
    number = len(TRAINING)
    assert len(list(filter(is_training, pick_pairs(task(samples(2), budget=number))))) == number
    with pytest.raises(
        UserError, match=f"asks for {number + 1} pairs, but the samples of the training prompts give only {number}"
    ) as error:
        pick_pairs(task(samples(2), budget=number + 1))
    assert error.value.where == "samples.jsonl" and "sample.num_prompts" in error.value.to_do


def test_the_worthiest_pairs_are_picked():
    """Of one prompt of each three, the two members order completions 0 and 1 in opposite ways; about all else they agree."""
    odd = TRAINING[::3]
    first = {sample.id: float(sample.k) for sample in samples(3)}
    second = {s.id: float({0: 1, 1: 0}.get(s.k, s.k) if s.prompt in odd else s.k) for s in samples(3)}
    pairs = pick_pairs(task(samples(3), [first, second], pick="disagreement", budget=len(odd), random_fraction=0.0))
    assert set(names(filter(is_training, pairs))) == {(f"{prompt}-0", f"{prompt}-1") for prompt in odd}


def test_the_random_share_is_drawn_from_everything():
    """A prompt has three pairs. Those of completion 0 are never close, so they are in the random share only: with 2/3 of it, as with any
    two of three pairs. Over 20 seeds the share has 20 x 20 pairs or so, and two thirds have a standard deviation of less than 10."""
    sure = {sample.id: float(sample.k == 0) + 0.01 * sample.k for sample in samples(3)}
    found = Counter()
    for seed in range(20):
        pairs = pick_pairs(task(samples(3), [sure, sure], seed, pick="closeness", budget=len(TRAINING), pairs_per_prompt=3))
        found.update(pair.picked for pair in filter(is_training, pairs) if pair.first.k == 0)
    assert set(found) == {RANDOM}
    assert found[RANDOM] == pytest.approx(20 * round(0.25 * len(TRAINING)) * 2 / 3, abs=40)


def test_picks_depend_on_the_seed_and_nothing_else():
    committee = [{sample.id: 0.0 for sample in samples()}] * 2  # all pairs are worth the same

    def picked(seed):
        return pick_pairs(task(committee=committee, seed=seed, pick="uncertainty", budget=50))

    assert picked(1) == picked(1) and names(picked(1)) != names(picked(2))


def test_the_same_two_texts_are_not_asked_about_twice_while_there_are_others():
    """Completions 0 and 1 have one text. So pairs 0-2 and 1-2, 0-3 and 1-3 are of the same texts, and a prompt has 3 different ones."""
    asked = [Sample(f"{s.id}", s.prompt_id, s.prompt, "answer 1" if s.k == 0 else s.completion, True, 0, s.k) for s in samples()]
    committee = [{sample.id: float(sample.k > 1) for sample in asked}] * 2
    settings = {"pick": "uncertainty", "pairs_per_prompt": 5, "random_fraction": 0.0}
    pairs = list(filter(is_training, pick_pairs(task(asked, committee, budget=3 * len(TRAINING), **settings))))
    assert len({pair.texts for pair in pairs}) == 3 * len(TRAINING)
    assert len(list(filter(is_training, pick_pairs(task(asked, committee, budget=5 * len(TRAINING), **settings))))) == 5 * len(TRAINING)


def test_every_comparison_says_how_its_pair_was_picked():
    committee = [{sample.id: float(sample.k) for sample in samples()}] * 2
    labels = label_by_judge(task(committee=committee, pick="closeness", budget=80, random_fraction=0.5), judge_by_scores(committee[0]))
    assert labels.counts()["picked"] == {"random": 40, "closeness": 40}
    assert all(row.picked == "random" for row in labels.comparisons if row.heldout)


def test_the_config_knows_the_ways_to_pick_that_there_are():
    assert set(get_args(LabelerConfig.model_fields["pick"].annotation)) == {RANDOM, *WORTH}


@pytest.mark.parametrize("setting", [{"pick": "closeness"}, {"budget": 10}])
def test_a_labeler_that_brings_its_own_pairs_takes_no_picks(setting):
    with pytest.raises(ValueError, match=f"labeler.{next(iter(setting))} picks pairs for a labeler"):
        LabelerConfig.model_validate({"kind": "preferences-file", "path": "labels.jsonl"} | setting)
