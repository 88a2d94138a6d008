"""Looks at held-out prompts: what is measured of the answers, and that training does not notice them."""

import math

import pytest
import torch

from configs.schema import GenerationConfig
from policies.checkpoints import Checkpoints
from policies.guard import Guard, Look
from policies.reporting import report_nothing
from policies.responses import ResponseRecord
from rewards.comparisons import PromptRecord
from rewards.evaluation import kl_to_reference
from rewards.heldout import RULES, HeldoutAnswers, HeldoutLooks, evidence
from rewards.measurements import Measurement
from rewards.overoptimization import find_signs
from rewards.rules import find_rules
from tests.conftest import perturb
from tests.unit.policies.test_checkpoints import fresh_backbone
from tests.unit.policies.test_guard import same
from tests.unit.policies.test_ppo import PROMPTS, make_trainer

GENERATION = GenerationConfig(max_new_tokens=8, temperature=0.7)


def looks_at(backbone, num_answers=4):
    """Of three prompts, with scores that count the tokens, and a judge that counts the letters."""
    prompts = [PromptRecord(f"p{i}", f"mango {i}?") for i in range(3)]
    return HeldoutLooks(
        backbone,
        GENERATION,
        lambda records: torch.tensor([float(len(record.token_ids)) for record in records]),
        prompts,
        7,
        lambda answers: [float(len(answer.completion)) for answer in answers],
        find_rules(RULES),
        num_answers,
    )


def made(scores, other, **changed):
    """A look at two prompts with two answers each."""
    units = ["p", "p", "q", "q"]
    record = ResponseRecord("?", True, "p", "", [1], [1, 2], None)
    values = {"defects": {"empty": 0.0}, "logprobs": [-1.0, -2.0, -3.0, -4.0], "kl": [0.0] * 4} | changed
    return HeldoutAnswers([record] * 4, Measurement(scores, units), Measurement(other, units), **values)


def test_policies_are_compared_with_the_one_that_ppo_started_from(backbone):
    """In a later round that is not the SFT policy. Its own answers have no gain over themselves, and the sign says what they are."""
    for name in ("sft", "start"):
        backbone.add_adapter(name)
    perturb(backbone, "start", 0.5)
    looks = looks_at(backbone)
    looks.reference = "start"
    now = looks.look("start")
    assert looks.of_reference.records == now.records != looks.look("sft").records
    found = evidence(now, looks.of_reference, "the starting policy")
    assert found.other_gain["mean"] == 0.0 and set(now.kl) == {0.0}
    assert "the starting policy's" in find_signs(found)["scores_above_sft"].text


def test_scores_are_asked_for_without_gradients(backbone):
    """As they are while PPO trains, so that a score of the user's may run a model of its own."""
    backbone.add_adapter("sft")
    looks, with_gradients = looks_at(backbone), []
    looks.score = lambda records: with_gradients.append(torch.is_grad_enabled()) or torch.zeros(len(records))
    looks.look("sft")
    assert with_gradients == [False]


def test_a_look_is_the_same_each_time_and_in_the_order_of_the_prompts(backbone):
    backbone.add_adapter("sft")
    perturb(backbone, "sft")
    one, other = (looks_at(backbone).look("sft") for _ in range(2))
    assert one.records == other.records and one.scores == other.scores and one.logprobs == other.logprobs
    assert one.scores.units == [f"p{i}" for i in range(3) for _ in range(4)]
    assert len({tuple(record.token_ids) for record in one.records}) > 6  # each answer has random numbers of its own
    assert one.kl == [0.0] * 12 and one.figures()["length"] == sum(one.lengths) / 12


def test_kl_is_that_of_evaluate(backbone):
    for seed, name in enumerate(("sft", "policy")):
        backbone.add_adapter(name)
        perturb(backbone, name, seed=seed)
    looks = looks_at(backbone)
    look = looks.look("policy")
    ids = [prompt.token_ids for prompt in looks.prompts]
    expected = kl_to_reference(backbone, "policy", "sft", ids, look.records, GENERATION)
    assert look.kl == pytest.approx(expected, abs=1e-4) and sum(look.kl) > 0


def test_training_does_not_notice_it():
    """The same updates with and without looks, to the last bit, with gradients and adapters as they were."""
    states = []
    for every in (0, 1):
        trainer = make_trainer(fresh_backbone(), num_epochs=1)
        looks = looks_at(trainer.backbone)

        def look(update, looks=looks):
            return Look(update, "", looks.look("policy").figures())

        guard = Guard("warn", every, look)
        log = trainer.train([PROMPTS] * 4, Checkpoints(), report_nothing, guard)
        assert len(guard.looks) == 4 * every
        states.append((trainer.backbone.adapter_state("policy"), log))
    assert same(states[0][0], states[1][0]) and states[0][1] == states[1][1]


def test_gains_are_in_standard_deviations_of_the_sft_policy():
    """The SFT policy's scores -1, 0, 1, 0 have the standard deviation sqrt(2/3), and the judge's 10, 20, 30, 20 ten times that. All scores
    rise by 2, and the judge's by 10, so the gains are 2 / sqrt(2/3) = 2.449 and 10 / sqrt(200/3) = 1.225, with no error."""
    sft = made([-1.0, 0.0, 1.0, 0.0], [10.0, 20.0, 30.0, 20.0])
    now = made([1.0, 2.0, 3.0, 2.0], [20.0, 30.0, 40.0, 30.0])
    found = evidence(now, sft)
    assert found.other_gain["mean"] == pytest.approx(10 / math.sqrt(200 / 3))
    assert found.gap["mean"] == pytest.approx(2 / math.sqrt(2 / 3) - 10 / math.sqrt(200 / 3))
    assert found.gap["standard_error"] == pytest.approx(0.0, abs=1e-9)


def test_what_the_other_judge_thinks_of_the_choice():
    """Of (1, 2) and (5, 3), the second and the first score highest. The judge gives them 10 and 40, and both prompts' answers 20 and 35 in
    the mean: -10 and +5, which is -2.5 in the mean. The standard deviation of 0, 10, 10, 0 is sqrt(100 / 3)."""
    sft = made([0.0] * 4, [0.0, 10.0, 10.0, 0.0])
    now = made([1.0, 2.0, 5.0, 3.0], [30.0, 10.0, 40.0, 30.0])
    assert evidence(now, sft).choice["mean"] == pytest.approx(-2.5 / math.sqrt(100 / 3))


def test_the_correlation_of_scores_and_logprobs():
    """Log-probs fall from -1 to -4, so their ranks are 4, 3, 2, 1. Scores with the ranks 1, 2, 3, 4 have the rank correlation -1. The ranks
    1, 3, 2, 4 differ from theirs by 3, 0, 0 and 3, so Spearman's formula gives 1 - 6 (9 + 9) / (4 x 15) = -0.8."""
    sft = made([0.0] * 4, [1.0, 2.0, 3.0, 4.0])
    for scores, expected in (([1.0, 2.0, 3.0, 4.0], -1.0), ([1.0, 3.0, 2.0, 4.0], -0.8)):
        assert evidence(made(scores, [0.0] * 4), sft).score_logprob == pytest.approx(expected)
    assert evidence(made([1.0] * 4, [0.0] * 4), sft).score_logprob is None


def test_without_a_judge_of_another_kind_its_signs_are_left_out(backbone):
    backbone.add_adapter("sft")
    looks = looks_at(backbone)
    looks.other = None
    found = evidence(looks.of_reference, looks.of_reference)
    assert found.other_gain is None and found.gap is None and found.choice is None
