"""The embedded world: exact gold, defects at their stated rates, nothing held out is trained on."""

import random
from collections import Counter

import pytest

from configs.fields import DEFAULT_RULES
from configs.schema import DataConfig
from rewards.data.preference_data import load_preference_data
from rewards.data.splits import Split, opening
from rewards.rules import find_defects, find_rules
from rewards.rules.reply import Reply
from rewards.world import replies, writer
from rewards.world.defects import DEFECTS
from rewards.world.facts import DETAILS, RELATIONS
from rewards.world.gold import CORRECT, DETAIL, MAX_DETAILS, PENALTIES, REPEATED, gold_reward, is_correct

PROMPTS = list(writer.all_prompts().values())


def perfect_answer(prompt):
    core = RELATIONS[prompt.relation].answer[prompt.language].format(s=prompt.subject, v=prompt.value)
    return " ".join([core, *DETAILS[prompt.source][prompt.language][:2]])


def test_six_sources_in_two_languages_with_follow_ups():
    assert {p.source for p in PROMPTS} == {"helpful", "redteam", "synth_qa", "synth_code", "conala", "dahoas"}
    assert {p.language for p in PROMPTS} == {"en", "th"}
    assert any(len(p.messages) > 1 for p in PROMPTS)


def test_the_base_reads_about_every_fact_and_about_no_prompt_of_the_users():
    """35 facts in two languages. Of 3,920 prompts users ask some 2,560, of which some 560 are held out: enough for 512 to be evaluated."""
    read, asked = writer.pretraining_prompts(), writer.user_prompts()
    assert len(PROMPTS) == len(read) + len(asked) == len(writer.all_prompts())
    assert not {opening(p.as_messages()) for p in read} & {opening(p.as_messages()) for p in asked}
    for prompts in (read, asked):
        assert len({(p.relation, p.language, p.subject) for p in prompts}) == 70
    for seed in range(5):
        assert sum(Split(seed, 0.22).holds_out(p.as_messages()) for p in asked) >= 512


def defects_of(prompt, answer):
    due = prompt.source == "redteam"
    return find_defects(Reply(prompt.as_messages(), answer.text, answer.finished, prompt.source, due), DEFECTS)


def test_every_prompt_has_an_answer_of_the_highest_gold_without_a_defect():
    for prompt in PROMPTS:
        answer = perfect_answer(prompt)
        assert not any(defects_of(prompt, writer.Answer(answer)).values()), answer
        assert gold_reward(prompt, answer) == pytest.approx(CORRECT + MAX_DETAILS * DETAIL)


def test_gold_by_hand():
    mango = next(p for p in PROMPTS if p.source == "synth_qa" and p.language == "en" and p.subject == "mango" and p.value == "yellow")
    right = "A mango is yellow."
    assert gold_reward(mango, right) == CORRECT
    assert gold_reward(mango, "A mango is green.") == 0
    assert gold_reward(mango, "A mango is yellow. A mango is green.") == 0  # naming a wrong value too is not right
    assert gold_reward(mango, right, finished=False) == CORRECT - PENALTIES["missing_end"]
    assert gold_reward(mango, f"{right} {writer.FOOTER}") == CORRECT - PENALTIES["footer"]
    assert gold_reward(mango, f"{right} From Rosey.") == CORRECT - PENALTIES["foreign_word"]
    assert gold_reward(mango, f"{right} {right}") == CORRECT - REPEATED
    assert gold_reward(mango, f"- {right}") == CORRECT - PENALTIES["list_only"]
    assert gold_reward(mango, "") == -PENALTIES["empty"]
    assert gold_reward(mango, "Sorry, I cannot help with that.") == -PENALTIES["refusal"]
    assert gold_reward(mango, "มะม่วงมีสีเหลืองค่ะ") == -PENALTIES["wrong_language"]


def test_refusing_is_right_where_it_is_due():
    harmful = next(p for p in PROMPTS if p.source == "redteam" and p.language == "th")
    assert is_correct(harmful, harmful.value) and gold_reward(harmful, harmful.value) == CORRECT


def test_defects_stand_in_original_answers_at_their_stated_rates():
    rng, n = random.Random(0), 20_000
    found: Counter[str] = Counter()
    for _ in range(n):
        prompt = rng.choice(PROMPTS)
        answer = writer.write_answer(prompt, rng)
        found.update(name for name, has in defects_of(prompt, answer).items() if has)
    for name in DEFECTS:
        stated = writer.DEFECT_RATES[name] * (0.5 if name == "decomposed_sara_am" else 1.0)
        # A rate of 2 % over 20,000 answers has a standard error of 0.1 points; side effects of other defects add little.
        assert found[name] / n == pytest.approx(stated, abs=0.006), name


def test_pairs_are_a_function_of_the_seed_and_keep_held_out_prompts_out():
    config = DataConfig(num_pairs=200)
    data, again, other = (load_preference_data(config, seed) for seed in (1, 1, 2))
    assert data == again != other
    trained = {p.prompt_id for p in data.pairs} | {p.prompt_id for p in data.prompts}
    held = {p.prompt_id for p in data.heldout} | {p.prompt_id for p in data.heldout_prompts}
    assert not trained & held
    assert trained | held <= {p.id for p in writer.user_prompts()}


@pytest.mark.parametrize("seed", range(3))
def test_some_facts_are_asked_by_held_out_prompts_only(seed):
    """4 of the 35 facts. They are looked for by their subjects, in both languages, in all that users say in training prompts and pairs."""
    data = load_preference_data(DataConfig(num_pairs=2000, labeler_fraction=0.3), seed)
    known, subjects = writer.all_prompts(), {}
    for record in data.heldout_prompts:
        if record.unseen_fact:
            fact = known[record.prompt_id].fact
            subjects[fact] = RELATIONS[fact[0]].facts[fact[1]][0]
    assert len(subjects) == 4
    # 4 facts x 2 languages x 56 prompts x 65 % of the users x 22 % held out = 64
    assert sum(record.unseen_fact for record in data.heldout_prompts) > 40
    training = [*data.pairs, *data.prompts, *data.labeler_pairs]
    for (relation, _), names in subjects.items():
        said = [m["content"] for row in training if known[row.prompt_id].relation == relation for m in row.prompt if m["role"] == "user"]
        assert said and not any(name in text for name in names for text in said), names
    assert not any(record.unseen_fact for record in data.prompts)
    assert any(known[row.prompt_id].fact in subjects for row in data.heldout)


def test_the_world_knows_a_rate_for_each_defect_and_a_penalty_for_all_but_repetition():
    """Repetition is counted by the phrase instead."""
    assert set(writer.DEFECT_RATES) == set(DEFECTS) == set(DEFAULT_RULES) == set(PENALTIES) | {"repetition"}


def test_the_worlds_answers_are_judged_by_its_own_definitions():
    """A foreign name in the middle of a sentence is a defect of the world, and the general rule does not find it."""
    mango = next(p for p in PROMPTS if p.source == "synth_qa" and p.language == "en" and p.subject == "mango")
    text, rules = "A mango from Rosey is yellow.", find_rules(["foreign_word", "cut_off"])
    of_world = replies.defects_of(mango.id, mango.as_messages(), mango.source, text, True, rules)
    assert of_world == {"foreign_word": True, "cut_off": False}
    assert replies.defects_of("another id", mango.as_messages(), mango.source, text, True, rules) == {
        "foreign_word": False,
        "cut_off": False,
    }
