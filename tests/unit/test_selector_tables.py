"""The tables of `make selectors`, by hand: two seeds with two prompts each, and picks whose scores are known."""

from types import SimpleNamespace

import pytest

from rewards.comparisons import Sample
from rewards.selectors.examples import Example
from tests.benchmarks import selectors
from tests.benchmarks.selector_tables import accuracies, accuracies_by_seed, best_of, best_of_by_seed, print_tables

GOLD = {
    0: {"oracle": [3.0, 5.0], "features": [2.0, 4.0], "reward-model": [2.0, 2.0], "random": [1.0, 3.0]},
    1: {"oracle": [5.0, 5.0], "features": [4.0, 4.0], "reward-model": [1.0, 1.0], "random": [1.0, 1.0]},
}
UNSEEN = {0: [True, False], 1: [False, True]}


def judged(pairwise: float, over: float | None = None) -> dict:
    """What `judge` tells of a selector."""
    found = {"pairwise": {"accuracy": pairwise, "standard_error": 0.1, "pairs": 9}}
    return found | ({} if over is None else {"over_reward_model": {"pairwise": {"mean": over, "standard_error": 0.05, "count": 9}}})


@pytest.fixture
def seeds():
    return {
        seed: {
            "prompts": ["p", "q"],
            "unseen_facts": UNSEEN[seed],
            "gold": {str(n): GOLD[seed] for n in (4, 8, 16)},
            "judged": {name: judged(0.6 if name == "reward-model" else 0.8, None if name == "reward-model" else 0.2) for name in GOLD[0]},
        }
        for seed in GOLD
    }


def test_gold_over_seeds(seeds):
    """Features: gold 3 and 4, so 3.5 with s = 0.707 and error 0.707 / sqrt(2) = 0.5. On prompts of unseen facts 2 and 4: 3 ± 1.
    Normalized gain (3 - 2) / (4 - 2) = 0.5 and (4 - 1) / (5 - 1) = 0.75: 0.625 ± 0.125. Over the reward model 1 and 3: 2 ± 1, and with one
    degree of freedom t is 12.706 (any table of Student's t).

    The reward model: gold 2 and 1, and the same on unseen facts. It picks no better than chance, so its gain is 0.
    """
    header, _, random, features, reward_model, oracle = best_of(seeds, 4)
    assert header.startswith("| who picks | gold | of unseen facts | normalized gain | over the reward model |")
    assert features == "| features | 3.500 ± 0.500 | 3.000 ± 1.000 | 0.625 ± 0.125 | +2.000 ± 1.000 | -10.706 to +14.706 | 2 of 2 |"
    assert reward_model == "| reward-model | 1.500 ± 0.500 | 1.500 ± 0.500 | 0.000 ± 0.000 |  |  |  |"
    assert random.startswith("| random |") and oracle.startswith("| oracle | 4.500 ± 0.500 |")


def test_gold_inside_each_seed(seeds):
    """Features over the reward model by prompt: 0 and 2 in seed 0, so 1 with s = 1.414 and error 1; 3 and 3 in seed 1."""
    assert best_of_by_seed(seeds, 4)[3] == "| features | +1.000 ± 1.000 | +3.000 ± 0.000 |"


def test_accuracies(seeds):
    """Both seeds have 0.8 against 0.6. From one seed there is no error over seeds."""
    features = "| features | 0.800 ± 0.000 | +0.200 ± 0.000 | +0.200 to +0.200 | 2 of 2 |"
    assert accuracies(seeds)[3] == features
    assert accuracies({0: seeds[0]})[3] == "| features | 0.800 | +0.200 | - | 1 of 1 |"
    assert accuracies_by_seed(seeds)[3] == "| features | +0.200 ± 0.050 | +0.200 ± 0.050 |"


def test_everything_is_printed(seeds, capsys):
    """Three numbers of completions over seeds and inside them, and the same for accuracies: eight tables. Where the oracle cannot gain
    anything, there is no normalized gain."""
    for seed in seeds:
        seeds[seed]["gold"]["16"] = dict.fromkeys(GOLD[0], [1.0, 1.0])
    print_tables(seeds, "ppo.score=features")
    shown = capsys.readouterr().out
    assert "Seeds 0, 1" in shown and "ppo.score=features" in shown and shown.count("| --- |") == 8
    assert "| oracle | 1.000 ± 0.000 | 1.000 ± 0.000 | - |" in shown


def test_picks(monkeypatch):
    """Of two completions of two prompts, the second has the higher score, and then both have the same, so the first counts."""
    true = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    monkeypatch.setattr(selectors, "gold_scores", lambda samples: {sample.id: true[sample.id] for sample in samples})
    asked = {"a": "p", "b": "p", "c": "q", "d": "q"}
    samples = [Sample(id=name, prompt_id=p, prompt=p, completion=name, finished=True, generation=1, k=0) for name, p in asked.items()]
    judge = SimpleNamespace(score=lambda groups: [[0.0, 1.0], [2.0, 2.0]])
    assert selectors.gold_of_picks({"judge": judge}, [samples[:2], samples[2:]]) == {"judge": [2.0, 3.0], "random": [1.5, 3.5]}


def test_rules_are_left_out():
    example = Example("p", 0, False, {"reward": 1.0, "rule_footer": 1.0}, {"reward": 2.0, "rule_footer": 0.0})
    assert selectors.without_rules(example) == Example("p", 0, False, {"reward": 1.0}, {"reward": 2.0})
