"""A reward model on a tiny backbone: it learns, reloads with the same scores, and other libraries read it."""

import math
from dataclasses import replace

import pytest
import torch
import transformers
from peft import PeftModel

from configs.schema import BaseConfig, DPOConfig, GenerationConfig, LoraSection, RewardConfig, TrainerSection
from loop.store.measures import headline
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.dpo import train_dpo
from policies.ppo import ValueModel
from policies.reporting import report_nothing
from policies.responses import Response, ResponseBatch
from policies.sft import train_sft
from rewards.baselines import shortest
from rewards.comparisons import Answer, Comparison
from rewards.evaluation import kl_to_reference
from rewards.measurements import summarize
from rewards.reward_model import doubt, outcomes, train_reward_model
from rewards.scoring import Scorer
from rewards.selectors import Tools, group_samples
from rewards.selectors.features import token_logprobs
from rewards.selectors.judging import judge
from rewards.selectors.selector import Encoded
from rewards.selectors.simple import Longest, RewardModel
from tests.conftest import make_causal_lm, perturb
from tests.unit.policies.model_forms import tiny_backbone, tiny_model


def pairs(n=64):
    """Good answers say yellow, bad ones green."""
    return [Comparison(f"p{i}", f"mango {i}?", f"yellow {i % 7}", f"green {i % 5}") for i in range(n)]


@pytest.fixture
def scorer(backbone, tmp_path):
    backbone.add_adapter("sft")
    backbone.add_adapter("reward", copy_of="sft")
    config = RewardConfig(learning_rate=1e-2, num_epochs=3, batch_size=16)
    return train_reward_model(backbone, "reward", pairs(), config, Checkpoints(), 0, report_nothing)[0]


def test_it_learns_and_leaves_the_rest_alone(backbone, tmp_path):
    backbone.add_adapter("sft")
    backbone.add_adapter("reward", copy_of="sft")
    before = {name: p.detach().clone() for name, p in backbone.causal_lm.named_parameters()}
    config = RewardConfig(learning_rate=1e-2, num_epochs=3, batch_size=16)
    scorer, log = train_reward_model(backbone, "reward", pairs(), config, Checkpoints(), 0, report_nothing)
    assert outcomes(scorer.score_answers, pairs(20)).mean()["mean"] == 1.0
    assert log[0]["loss"] > log[-1]["loss"]
    changed = {name for name, p in backbone.causal_lm.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all(".reward." in name for name in changed)


def test_soft_targets_are_hard_ones_where_nobody_doubts_and_pull_ties_together(backbone):
    """Pairs without a confidence give the very same training. With ties about yellow and green beside pairs about red and blue, the two
    that tie end nearer to each other than the two that do not."""
    backbone.add_adapter("sft")

    def train(rows, targets, name):
        backbone.add_adapter(name, copy_of="sft")
        config = RewardConfig(learning_rate=1e-2, num_epochs=3, batch_size=16, targets=targets)
        return train_reward_model(backbone, name, rows, config, Checkpoints(), 0, report_nothing)

    (hard, hard_log), (soft, soft_log) = train(pairs(), "hard", "hard"), train(pairs(), "soft", "soft")
    assert torch.equal(hard.head, soft.head) and hard_log == soft_log
    ties = [replace(pair, tie=True) for pair in pairs()]
    tied, log = train(ties, "soft", "tied")
    assert log[0]["loss"] >= log[-1]["loss"] >= math.log(2) - 1e-4  # -1/2 log sigmoid(d) - 1/2 log sigmoid(-d) is log 2 at d = 0, its least
    gaps = [[abs(a - b) for a, b in zip(*of, strict=True)] for of in (_scores(hard), _scores(tied))]
    assert max(gaps[1]) < 0.2 * min(gaps[0])


def _scores(scorer):
    answers = [[Answer(pair.prompt, text, True) for pair in pairs(20)] for text in ("yellow 1", "green 1")]
    return [scorer.score_answers(of_side) for of_side in answers]


def test_what_a_labeler_doubts():
    pair = pairs(1)[0]
    assert [doubt(replace(pair, **of)) for of in ({}, {"tie": True}, {"confidence": 0.75}, {"tie": True, "confidence": 0.75})] == [
        0.0,
        0.5,
        0.25,
        0.25,
    ]


def test_normalised_scores_reload_alike_and_peft_reads_them(backbone, scorer, tmp_path):
    sequences = [[5, 6, 7, 8], [9, 10], [11, 12, 13]] * 4
    sequences = [[*s, i + 3] for i, s in enumerate(sequences)]
    scorer.normalize_on(sequences)
    scores = scorer.score(sequences)
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-4) and scores.std().item() == pytest.approx(1.0, abs=1e-4)
    weight, bias = scorer.normalized_head
    assert torch.allclose(weight * scorer.std, scorer.head) and bias == pytest.approx(-scorer.mean / scorer.std)

    scorer.save(tmp_path / "reward")
    assert torch.equal(Scorer.load(backbone, "again", tmp_path / "reward").score(sequences), scores)

    model, tokenizer = make_causal_lm()
    model.save_pretrained(tmp_path / "base")
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=1, pad_token_id=tokenizer.pad_token_id
    )
    theirs = PeftModel.from_pretrained(classifier, tmp_path / "reward").eval()
    with torch.no_grad():
        raw = torch.stack([theirs(input_ids=torch.tensor([s])).logits[0, 0] for s in sequences])
    assert torch.allclose((raw - scorer.mean) / scorer.std, scores, atol=1e-4)


def test_heads_read_states_that_are_smaller_than_those_of_the_layers(tmp_path):
    """OPT-350m projects its states to half their size before its output layer. The value head starts as the reward model's."""
    backbone = tiny_backbone("OPT-350m")
    backbone.add_adapter("reward")
    config = RewardConfig(learning_rate=1e-2, batch_size=16)
    scorer = train_reward_model(backbone, "reward", pairs(16), config, Checkpoints(), 0, report_nothing)[0]
    assert scorer.head.shape == (1, 16) and backbone.causal_lm.config.hidden_size == 32
    responses = ResponseBatch.from_ids(backbone, [[5, 6], [7]], [[8], [9]])
    with torch.no_grad(), backbone.role("reward"):
        values = ValueModel(backbone, scorer.head, 0.0, None).values(responses, responses.states())
    expected = scorer.score([[5, 6], [7]])  # the states that predict the first tokens are those of the prompts' last ones
    assert torch.allclose(values[:, 0], expected, atol=1e-4)

    scorer.save(tmp_path / "reward")
    tiny_model("OPT-350m").save_pretrained(tmp_path / "base")
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    theirs = PeftModel.from_pretrained(classifier, tmp_path / "reward").eval()
    with torch.no_grad():
        assert theirs(input_ids=torch.tensor([[5, 6]])).logits.item() == pytest.approx(expected[0].item(), abs=1e-4)


def test_sft_dpo_and_reward_model_train_on_a_four_bit_base(tmp_path):
    """QLoRA: NF4 base, bfloat16 compute, gradient checkpointing; only the adapter's float32 weights move."""
    model, tokenizer = make_causal_lm(hidden_size=64)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    config = BaseConfig(model=base, quantization="nf4", dtype="bfloat16", gradient_checkpointing=True)
    backbone = Backbone.load(base, config, LoraSection(rank=4))
    backbone.add_adapter("sft")
    before = {name: p.detach().clone() for name, p in backbone.causal_lm.named_parameters()}
    train_sft(backbone, "sft", [([5, 6, 7], [8, 9, 1])] * 64, TrainerSection(batch_size=8), Checkpoints(), 0, report_nothing)
    changed = {name for name, p in backbone.causal_lm.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all(".sft." in name for name in changed)
    backbone.add_adapter("policy", copy_of="sft")
    log = train_dpo(backbone, "policy", [([5, 6], [8, 1], [9, 1])] * 64, DPOConfig(batch_size=8), Checkpoints(), 0, report_nothing)
    assert log[-1]["loss"] < log[0]["loss"] and log[-1]["rewards/accuracies"] == 1.0
    backbone.add_adapter("reward", copy_of="sft")
    settings = RewardConfig(learning_rate=1e-2, batch_size=16)
    scorer, _ = train_reward_model(backbone, "reward", pairs(), settings, Checkpoints(), 0, report_nothing)
    assert outcomes(scorer.score_answers, pairs(20)).mean()["mean"] == 1.0


def test_select_and_retrain_report_the_same_accuracy_of_a_reward_model(scorer):
    """Both on the same comparisons, to the last digit; prompts whose candidates have equal wins count as well.

    Of 20 prompts the even ones have a beats b and b beats a (a win each), the odd ones a beats b.
    """
    rows = [Comparison(f"p{i}", f"mango {i}?", f"yellow {i % 7}", f"green {i % 5}") for i in range(20)]
    rows += [Comparison(f"p{i}", f"mango {i}?", f"green {i % 5}", f"yellow {i % 7}") for i in range(0, 20, 2)]
    retrain = outcomes(scorer.score_answers, rows).accuracy()
    tools = Tools(scorer.backbone, scorer, {})
    judged = judge({"longest": Longest(tools), "reward-model": RewardModel(tools)}, group_samples([], rows), rows)
    assert judged["reward-model"]["pairwise"] == retrain
    assert retrain["pairs"] == judged["longest"]["pairwise"]["pairs"] == 30 and retrain["accuracy"] == pytest.approx(20 / 30)
    assert judged["reward-model"]["top1"]["pairs"] == 10  # there is no most preferred candidate in the even ones
    assert judged["longest"]["over_reward_model"]["pairwise"]["mean"] == pytest.approx(
        judged["longest"]["pairwise"]["accuracy"] - retrain["accuracy"]
    )


def test_held_out_comparisons_that_are_all_ties_have_no_accuracy(backbone):
    """There is nothing to divide by, so there is no figure; the terminal shows a dash."""
    ties = [Comparison("p", "q", "a", "b", tie=True), Comparison("p", "q", "a", "ccc", tie=True)]
    nothing = {"accuracy": None, "standard_error": None, "pairs": 0}
    backbone.add_adapter("reward")
    scorer = Scorer(backbone, "reward", torch.ones(1, 32))
    assert outcomes(scorer.score_answers, ties).accuracy() == nothing
    assert outcomes(shortest, ties).accuracy() == nothing
    judged = judge({"longest": Longest(Tools(backbone, scorer, {}))}, group_samples([], ties), ties[:1])
    assert judged["longest"]["pairwise"] == judged["longest"]["top1"] == nothing
    assert summarize([]) == {"mean": None, "standard_error": None, "count": 0}
    assert headline("select", {"judged": judged}) == "judged longest -"
    assert headline("evaluate", {"gold": summarize([])}) == "gold -"


def test_no_pass_has_more_tokens_than_the_limit(backbone, monkeypatch):
    """Scores, KLs and log-probs are the same up to rounding, with at most 20 tokens in a pass instead of all 66 at once."""
    for name in ("sft", "reward"):
        backbone.add_adapter(name)
        perturb(backbone, name)
    scorer = Scorer(backbone, "reward", torch.ones(1, 32))
    prompts, completions = [[3, 4, 5][: 1 + i % 3] for i in range(12)], [[6 + i] * (1 + i % 6) for i in range(12)]
    whole = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    responses = [Response(completion, False) for completion in completions]
    candidates = [Encoded(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
    assert sum(map(len, whole)) == 66
    sizes, hidden_states = [], backbone.hidden_states

    def counted(batch, *rest, **options):
        sizes.append(batch.input_ids.shape[0] * int(batch.attention_mask.sum(1).max()))
        return hidden_states(batch, *rest, **options)

    monkeypatch.setattr(backbone, "hidden_states", counted)

    def measured():
        sizes.clear()
        logprobs = token_logprobs(Tools(backbone, scorer, {}), candidates, "sft", 0.7)
        kls = kl_to_reference(backbone, "reward", "sft", prompts, responses, GenerationConfig())
        return [*scorer.score(whole).tolist(), *kls, *(float(value) for row in logprobs for value in row)]

    expected = measured()
    assert len(sizes) == 4 and max(sizes) > 66  # scores, log-probs, and the KL's two policies; with padding
    backbone.tokens_per_batch = 20
    assert measured() == pytest.approx(expected, abs=1e-4)
    assert max(sizes) <= 20 and len(sizes) > 12
