"""The made votes of the embedded world."""

import json
from itertools import islice

from configs.data import DataConfig
from rewards.data.preference_data import load_preference_data
from rewards.data.splits import content_id
from rewards.world import votes, writer
from rewards.world.gold import gold_reward


def test_votes_are_the_liking_again_by_the_score_of_stack_exchange():
    """round(2^2 - 1) = 3 votes, and log2(1 + 3) = 2; 2^-1 - 1 = -0.5 rounds to 0 votes; below that, there are more against than for."""
    assert [votes.votes(liking) for liking in (3.0, 2.0, 1.0, 0.0, -1.0, -1.1)] == [7, 3, 1, 0, 0, -1]


def test_votes_know_something_of_gold_and_ask_what_no_run_asks(tmp_path):
    """Of two answers whose gold differs by d, the difference of the likings has mean d and standard deviation 2 x sqrt(2) = 2.8."""
    rows = list(votes.rows())
    assert rows[:50] == list(islice(votes.rows(), 50)) != list(islice(votes.rows(1), 50))
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = DataConfig.model_validate({"source": str(tmp_path / "votes.jsonl"), "normalize": False})
    pairs = load_preference_data(config, 0).pairs
    assert len(pairs) > 3500
    asked = {prompt.question: prompt for prompt in writer.pretraining_prompts() if not prompt.told_fact}
    assert not {content_id([{"role": "user", "content": pair.prompt}]) for pair in pairs} & {prompt.id for prompt in writer.user_prompts()}
    differences = [gold_reward(asked[pair.prompt], pair.chosen) - gold_reward(asked[pair.prompt], pair.rejected) for pair in pairs]
    decided = [difference for difference in differences if abs(difference) > 0.1]
    right = sum(difference > 0 for difference in decided) / len(decided)
    assert 0.65 < right < 0.9 and len(decided) > 0.6 * len(pairs)


def test_an_answer_survives_its_html():
    assert votes.as_html("a < b\n- c") == "<p>a &lt; b<br>- c</p>"
