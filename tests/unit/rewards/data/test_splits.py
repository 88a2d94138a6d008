"""One id for a prompt, one law for its side."""

import pytest

from configs.schema import DataConfig
from rewards.data.preference_data import load_preference_data
from rewards.data.splits import Split, content_id, opening


def user(text):
    return {"role": "user", "content": text}


def test_an_id_is_the_content():
    assert content_id([user("q")]) == content_id([{"content": "q", "role": "user"}])
    others = ["q", "q ", [user("q")], [user("q"), {"role": "assistant", "content": "a"}, user("q")], [{"role": "system", "content": "q"}]]
    assert len({content_id(prompt) for prompt in others}) == len(others)


@pytest.mark.parametrize(
    "prompt",
    [
        "q",
        " q\n",
        [user("q")],
        [{"role": "system", "content": "be kind"}, user("q")],
        [user("q"), {"role": "assistant", "content": "a"}, user("another")],
        "\n\nHuman: q\n\nAssistant: a\n\nHuman: another\n\nAssistant:",
        "\n\nHuman: q\n\nHuman: more\n\nAssistant:",
        "Human: q",
    ],
)
def test_dialogues_that_open_alike_are_on_one_side(prompt):
    assert opening(prompt) == "q"
    for seed in range(10):
        assert Split(seed, 0.5, 0.5).side(prompt) == Split(seed, 0.5, 0.5).side("q")


def test_the_shares_of_the_sides():
    """10,000 openings: the standard error of a share is at most 0.005."""
    split = Split(0, heldout_fraction=0.2, labeler_fraction=0.5)
    sides = [split.side(f"question {i}") for i in range(10_000)]
    assert sides.count("heldout") / 10_000 == pytest.approx(0.2, abs=0.02)
    assert sides.count("labeler") / 10_000 == pytest.approx(0.4, abs=0.02)
    assert sides != [Split(1, 0.2, 0.5).side(f"question {i}") for i in range(10_000)]


def test_a_larger_fraction_holds_out_more_of_the_same():
    few, many = (Split(0, fraction) for fraction in (0.1, 0.3))
    questions = [f"question {i}" for i in range(1000)]
    assert {q for q in questions if few.holds_out(q)} < {q for q in questions if many.holds_out(q)}


def test_original_data_follows_the_law():
    for seed in (0, 1):
        data, split = load_preference_data(DataConfig(num_pairs=50), seed), Split(seed, 0.22)
        assert all(split.holds_out(row.prompt) for row in [*data.heldout, *data.heldout_prompts])
        assert not any(split.holds_out(row.prompt) for row in [*data.pairs, *data.prompts])
        assert all(row.prompt_id == content_id(row.prompt) for row in [*data.pairs, *data.heldout, *data.prompts, *data.heldout_prompts])
