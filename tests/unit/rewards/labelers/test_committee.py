"""The committee that picks pairs: who is in it, what it writes, and which pairs it proposes for labels."""

import math

import pytest

from policies.backbone import Backbone
from policies.responses import ResponseBatch
from policies.tokenization import encode_completion, encode_prompt
from rewards.comparisons import Comparison, Sample
from rewards.data.splits import Split
from rewards.labelers import committee as committees
from rewards.scoring import Scorer
from rewards.selectors import Tools, group_samples
from tests.conftest import perturb

SPLIT = Split(seed=0, heldout_fraction=0.2)
HELDOUT = next(f"prompt {p}" for p in range(100) if SPLIT.holds_out(f"prompt {p}"))
PROMPT, OTHER = [f"prompt {p}" for p in range(100) if not SPLIT.holds_out(f"prompt {p}")][:2]


def sample(prompt, k, completion=None):
    return Sample(f"{prompt}-{k}", prompt, prompt, completion or "abc"[k], True, 0, k)


@pytest.fixture
def tools(backbone: Backbone):
    import torch

    backbone.add_adapter("sft")
    perturb(backbone, "sft")
    backbone.add_adapter("reward")
    return Tools(backbone, Scorer(backbone, "reward", torch.ones(1, backbone.hidden_size)), {})


def test_without_a_selector_the_sft_policy_is_asked(tools):
    """The mean log-prob of a completion's tokens with its end, from a pass of one sequence."""
    samples = [sample(PROMPT, 0), sample(OTHER, 0), sample(PROMPT, 1, "abcab")]  # the order of a run's second policy
    found = committees.ask(tools, group_samples(samples), samples, None, temperature=0.7)
    assert list(found) == ["reward_model", "sft"]
    assert found["reward_model"] == pytest.approx(dict(zip((s.id for s in samples), tools.reward.score_samples(samples), strict=True)))
    tokenizer = tools.backbone.tokenizer
    ids = [encode_prompt(tokenizer, PROMPT)], [encode_completion(tokenizer, "abcab")]
    logprobs = ResponseBatch.from_ids(tools.backbone, *ids, temperature=0.7).under("sft")[1]
    assert found["sft"][f"{PROMPT}-1"] == pytest.approx(logprobs.mean().item(), abs=1e-5)


def test_the_selector_is_first_unless_it_is_the_reward_model(tools):
    """Labels may have brought a further completion, which is no sample."""
    samples = [sample(PROMPT, 0), sample(PROMPT, 1)]
    groups = group_samples(samples, [Comparison(PROMPT, PROMPT, "brought", "a")])
    found = committees.ask(tools, groups, samples, [[3.0, 1.0, 2.0]], temperature=1.0)
    assert list(found) == ["selector", "reward_model"] and found["selector"] == {f"{PROMPT}-0": 3.0, f"{PROMPT}-1": 1.0}
    assert list(committees.ask(tools, groups, samples, tools.rewards(groups), temperature=1.0)) == ["reward_model", "sft"]


def test_agreement_counts_pairs_that_both_order():
    """Of the pairs 0-1, 0-2 and 1-2, the second member calls 0-1 even, agrees about 0-2, and not about 1-2."""
    samples = [sample(PROMPT, k) for k in range(3)]
    ids = [s.id for s in samples]
    found = {"selector": dict(zip(ids, (2.0, 0.0, 1.0), strict=True)), "reward_model": dict(zip(ids, (1.0, 1.0, 0.0), strict=True))}
    assert committees.agreement(found, samples) == 0.5
    assert committees.agreement(found, samples[:2]) is None


def test_pairs_are_proposed_that_nobody_has_compared(tmp_path):
    """0-1 was compared, if the other way round. Both members are sure of 0-2, and they disagree about 1-2."""
    samples = [sample(prompt, k) for prompt in (PROMPT, HELDOUT) for k in range(3)]
    scores = {"selector": (2.0, 1.0, 0.0), "reward_model": (2.0, 0.0, 1.0)}
    found = {name: {s.id: of_k[s.k] for s in samples} for name, of_k in scores.items()}
    rows = committees.propose(found, samples, [Comparison(PROMPT, PROMPT, "b", "a")], SPLIT)
    assert [row["ids"] for row in rows] == [[f"{PROMPT}-1", f"{PROMPT}-2"], [f"{PROMPT}-0", f"{PROMPT}-2"]]
    assert rows[0]["completions"] == ["b", "c"] and rows[0]["scores"] == {"selector": [1.0, 0.0], "reward_model": [0.0, 1.0]}
    assert rows[0]["worth"]["disagreement"] > rows[1]["worth"]["disagreement"]
    # The selector's differences are 1 and 2, with a root mean square of sqrt(2.5); the reward model's are -1 and 1.
    chance = [1 / (1 + math.exp(-x)) for x in (1 / math.sqrt(2.5), -1.0)]
    mean = sum(chance) / 2
    assert rows[0]["worth"]["uncertainty"] == pytest.approx(-mean * math.log(mean) - (1 - mean) * math.log(1 - mean))
    assert rows[0]["worth"]["closeness"] == -1.0


def test_at_most_200_pairs_are_proposed_and_no_texts_twice():
    """Seven completions, of which two are equal, have 15 pairs of different texts a prompt: 15 x 20 prompts."""
    prompts = [f"prompt {p}" for p in range(200) if not SPLIT.holds_out(f"prompt {p}")][:20]
    samples = [sample(prompt, k, "abcdeff"[k]) for prompt in prompts for k in range(7)]
    found = {name: {s.id: float(s.k % modulus) for s in samples} for name, modulus in (("selector", 7), ("reward_model", 3))}
    rows = committees.propose(found, samples, [], SPLIT)
    assert len(rows) == 200 and len({(row["prompt_id"], frozenset(row["completions"])) for row in rows}) == 200
    assert committees.propose(found, samples[:1], [], SPLIT) == []


def test_scores_survive_the_disk(tmp_path):
    found = {"selector": {"a": 0.1, "b": -2.5}, "reward_model": {"a": 1 / 3, "b": 0.0}}
    committees.write(found, tmp_path)
    assert committees.read(tmp_path) == found and list(committees.read(tmp_path)) == list(found)
