"""The best of n completions: ratios and means by hand, and a policy whose answers are known."""

import json

import pytest

from configs.schema import GenerationConfig
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from policies.responses import Response
from policies.tokenization import encode_completion
from rewards import sampling
from rewards.best_of import choose_best_of, compare_ways, ratio
from rewards.comparisons import Sample
from rewards.measurements import Measurement
from rewards.sampling import Sampler
from rewards.selectors import Tools
from rewards.selectors.simple import Longest
from rewards.world import writer
from rewards.world.gold import gold_reward, gold_scores


def test_a_ratio_by_hand():
    """Means 2 and 4, so the ratio is 0.5. Residuals a - b / 2 are -0.5, 0.5, so the error is their standard error 0.5, divided by 4."""
    units = ["p", "q"]
    found = ratio(Measurement([1.0, 3.0], units), Measurement([3.0, 5.0], units))
    assert found == {"mean": 0.5, "standard_error": pytest.approx(0.5 / 4), "count": 2}
    assert ratio(Measurement([1.0, 3.0], units), Measurement([1.0, -1.0], units))["mean"] is None
    assert ratio(Measurement([], []), Measurement([], [])) == {"mean": None, "standard_error": None, "count": 0}


def test_ways_to_choose_by_hand():
    """Over two prompts: random 1 and 3, chosen 2 and 4, reward model 2 and 2, oracle 3 and 5. Half of what is possible is gained."""
    units = ["p", "q"]
    values = {"random": [1.0, 3.0], "chosen": [2.0, 4.0], "reward_model": [2.0, 2.0], "oracle": [3.0, 5.0]}
    found = compare_ways({name: Measurement(of_way, units) for name, of_way in values.items()})
    assert found["chosen"]["mean"] == 3.0 and found["random"]["mean"] == 2.0 and found["oracle"]["mean"] == 4.0
    assert found["chosen_over_reward_model"] == {"mean": 1.0, "standard_error": pytest.approx(1.0), "count": 2}
    assert found["normalized_gain"] == {"mean": 0.5, "standard_error": 0.0, "count": 2}


class Shortest:
    """A reward model that prefers what is short."""

    adapter = "reward"

    def score(self, sequences):
        import torch

        return torch.tensor([-float(len(ids)) for ids in sequences])


@pytest.fixture
def chosen(backbone, monkeypatch):
    """Chooses the longest of three answers: nothing, "xx" and "xxxx", of two prompts of the world."""
    tokenizer = backbone.tokenizer

    def respond(backbone, adapter, prompts, seeds, *rest):
        assert len(set(seeds)) == len(seeds) == 4
        return [Response(encode_completion(tokenizer, "x" * (2 if i % 2 == 0 else 4)), True) for i in range(len(prompts))]

    monkeypatch.setattr(sampling, "generate_sharded", respond)
    prompts = list(writer.all_prompts().values())[:2]
    first = [Sample(p.id, p.id, p.as_messages(), "", True, 0, 0, p.source, unseen_fact=i == 1) for i, p in enumerate(prompts)]
    sampler = Sampler(backbone, GenerationConfig(), Checkpoints(), report_nothing)

    def choose(gold):
        return choose_best_of(sampler, "policy", first, 3, 7, Longest(Tools(backbone, Shortest(), {})), gold)

    return prompts, choose


def test_the_selector_chooses_among_the_policys_answers(chosen, tmp_path):
    prompts, choose = chosen
    best = choose(gold_scores)
    assert [sample.completion for sample in best.chosen] == ["xxxx"] * 2 and [choice.number for choice in best.choices] == [2, 2]
    gold = [[gold_reward(prompt, text) for text in ("", "xx", "xxxx")] for prompt in prompts]
    assert best.gold["random"].values == pytest.approx([sum(row) / 3 for row in gold])
    assert list(best.gold["chosen"].values) == [row[2] for row in gold] and list(best.gold["reward_model"].values) == [
        row[0] for row in gold
    ]
    assert list(best.gold["oracle"].values) == [max(row) for row in gold]
    summary = best.summary()
    assert summary["best_of"]["chosen"]["count"] == 2 and summary["best_of_unseen_facts"]["chosen"]["count"] == 1
    best.write(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "best.jsonl").read_text().splitlines()]
    assert [(row["prompt_id"], row["completion"], row["gold"]["oracle"]) for row in rows] == [
        (prompt.id, "xxxx", max(row)) for prompt, row in zip(prompts, gold, strict=True)
    ]


def test_without_gold_the_choices_are_written_and_nothing_is_claimed(chosen, tmp_path):
    best = chosen[1](False)
    assert best.summary() == {}
    best.write(tmp_path)
    assert [json.loads(line)["completion"] for line in (tmp_path / "best.jsonl").read_text().splitlines()] == ["xxxx"] * 2
