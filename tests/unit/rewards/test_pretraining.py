"""Preference-model pretraining on a tiny backbone: its rows, its loss beside one computed otherwise, and what it learns."""

import math

import pytest
import torch

from configs import load_config
from configs.pretraining import PMPConfig
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from policies.tokenization import encode_completion, encode_prompt
from rewards.comparisons import Comparison
from rewards.pretraining import as_data, asked_as, control_ids, mean_loss, train_preference_model, training_rows
from rewards.reward_model import CARRIED, outcomes
from rewards.scoring import ScoringModel
from tests.benchmarks.pmp import check_settings
from tests.conftest import perturb


def pairs(n=64):
    """Good answers say yellow, bad ones green, and they have different lengths."""
    return [Comparison(f"p{i}", f"mango {i}?", f"yellow {i % 7}", f"green {'x ' * (i % 3)}{i % 5}") for i in range(n)]


def train(backbone, rows, name="pmp", **settings):
    backbone.add_adapter(name, copy_of="sft")
    return train_preference_model(backbone, name, rows, PMPConfig(**settings), Checkpoints(), 0, report_nothing)


@pytest.fixture
def backbone(backbone):
    backbone.add_adapter("sft")
    perturb(backbone, "sft")
    return backbone


def test_the_rows_of_a_pair(backbone):
    """One comparison of both answers, whose better one has a loss after the prompt. Binarized: the better answer is good rather than bad,
    the worse one bad rather than good, and only the better answer has a loss, without its control word."""
    tokenizer, pair = backbone.tokenizer, Comparison("p", "mango?", "yellow", "green", rejected_finished=False)
    prompt, chosen = encode_prompt(tokenizer, "mango?"), encode_completion(tokenizer, "yellow")
    rejected = encode_completion(tokenizer, "green", finished=False)
    good, bad = control_ids(tokenizer)
    assert [tokenizer.decode(ids) for ids in (good, bad)] == ["GOOD: ", "BAD: "]
    (row,) = training_rows(tokenizer, pair, binarised=False)
    assert row == {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected, CARRIED: len(prompt)}
    first, second = training_rows(tokenizer, pair, binarised=True)
    assert first == {"chosen_ids": prompt + good + chosen, "rejected_ids": prompt + bad + chosen, CARRIED: len(prompt + good)}
    assert (second["chosen_ids"], second["rejected_ids"]) == (prompt + bad + rejected, prompt + good + rejected)
    assert second[CARRIED] == len(second["chosen_ids"])


@pytest.mark.parametrize("binarised", [False, True])
def test_the_loss_of_the_first_step(backbone, binarised):
    """Beside transformers' own forward pass of each row alone: -log sigmoid of the difference of the scores at the last tokens, plus a
    quarter of the mean negative log-prob of the better answers' tokens. A row without such tokens counts as 0."""
    rows = pairs(6)
    _, log = train(backbone, rows, batch_size=6 * (1 + binarised), lm_coefficient=0.25, binarised=binarised)
    with backbone.role("sft"):
        head = ScoringModel(backbone, 0).score.weight.detach()
        expected = []
        for row in (row for pair in rows for row in training_rows(backbone.tokenizer, pair, binarised)):
            (score, nll), (other, _) = (read(backbone, head, row[side], row[CARRIED]) for side in ("chosen_ids", "rejected_ids"))
            expected.append(math.log1p(math.exp(other - score)) + 0.25 * nll)
    assert log[0]["loss"] == pytest.approx(sum(expected) / len(expected), abs=2e-4)  # the trainer rounds the losses that it logs


def read(backbone, head, ids, without_loss):
    """The score of a row, and the mean negative log-prob of its tokens from `without_loss` on."""
    with torch.no_grad():
        found = backbone.causal_lm(input_ids=torch.tensor([ids]), output_hidden_states=True)
    score = (found.hidden_states[-1][0, -1] @ head[0]).item()
    logprobs = found.logits[0].log_softmax(-1)
    nll = [-logprobs[place - 1, ids[place]].item() for place in range(without_loss, len(ids))]
    return score, sum(nll) / max(1, len(nll))


def test_the_mean_of_each_row_and_then_of_all_rows():
    """Rows 0 and 2 have (1 + 2 + 3) / 3 = 2 and 5, row 1 has no token: (2 + 0 + 5) / 3."""
    logprobs, rows = torch.tensor([-1.0, -2.0, -3.0, -5.0]), torch.tensor([0, 0, 0, 2])
    assert mean_loss(logprobs, rows, 3).item() == pytest.approx(7 / 3)
    assert mean_loss(torch.zeros(0), torch.zeros(0, dtype=torch.long), 2).item() == 0.0


@pytest.mark.parametrize("binarised", [False, True])
def test_micro_batches_change_nothing(backbone, binarised):
    """Also where a micro-batch holds one comparison that has no language-modeling loss."""
    logs = [train(backbone, pairs(16), batch_size=8, binarised=binarised, micro_batch_size=size)[1] for size in (None, 1)]
    assert [row["loss"] for row in logs[0]] == pytest.approx([row["loss"] for row in logs[1]], abs=3e-4)
    assert len(logs[0]) == (4 if binarised else 2)


def test_it_learns_to_prefer_and_to_write(backbone):
    """Ranked, the score prefers yellow. The adapter's likelihood of the better answers rises with the second loss, and less without it."""
    settings = {"learning_rate": 1e-2, "num_epochs": 3, "batch_size": 16}
    before = likelihood(backbone, "sft")
    scorer, _ = train(backbone, pairs(), "both", **settings)
    assert outcomes(scorer.score_answers, pairs(20)).mean()["mean"] == 1.0
    train(backbone, pairs(), "alone", lm_coefficient=0.0, **settings)
    assert likelihood(backbone, "both") > before + 1.0 and likelihood(backbone, "both") > likelihood(backbone, "alone") + 1.0


def likelihood(backbone, adapter):
    """The mean log-prob of a token of the better answers."""
    tokenizer, found = backbone.tokenizer, []
    with backbone.role(adapter):
        for pair in pairs(10):
            prompt = encode_prompt(tokenizer, pair.prompt)
            found.append(-read(backbone, torch.zeros(1, 32), prompt + encode_completion(tokenizer, pair.chosen), len(prompt))[1])
    return sum(found) / len(found)


def test_binarised_it_tells_good_from_bad(backbone):
    """After training, a yellow answer is rather good than bad, and a green one rather bad than good, also for prompts that it has not
    seen."""
    scorer, _ = train(backbone, pairs(), binarised=True, learning_rate=1e-2, num_epochs=3, batch_size=16)
    prompt, (good, bad) = encode_prompt(backbone.tokenizer, "mango 99?"), control_ids(backbone.tokenizer)
    for text, sign in (("yellow 3", 1), ("green 3", -1)):
        answer = encode_completion(backbone.tokenizer, text)
        as_good, as_bad = scorer.score([prompt + good + answer, prompt + bad + answer]).tolist()
        assert sign * (as_good - as_bad) > 0.5


def test_votes_are_read_and_split_as_the_run_s_own_data():
    words = ["pmp.sources=[{path: votes.jsonl, weight: 2}]", "pmp.max_pairs=70", "data.heldout_fraction=0.3", "data.labeler_fraction=0.1"]
    config = load_config(overrides=words)
    found = as_data(config)
    assert (found.source, found.sources, found.max_pairs) == (None, config.pmp.sources, 70)
    assert (found.heldout_fraction, found.labeler_fraction) == (0.3, 0.1)
    assert not found.normalize  # nor are the texts of the embedded world, whose defects it would hide
    own = load_config(overrides=[*words, "data=pairs.jsonl", "labeler.kind=preferences-file", "labeler.path=labels.jsonl"])
    assert as_data(own).normalize


def test_questions_become_turns_where_the_run_has_dialogues():
    plain, turns = Comparison("p", "q", "a", "b"), [{"role": "user", "content": "q"}]
    assert [pair.prompt for pair in asked_as([plain], "text")] == ["q"]
    as_turns = Comparison("p", turns, "a", "b")
    assert asked_as([plain, as_turns], turns) == [as_turns, as_turns]


def test_the_benchmark_does_not_take_figures_of_other_settings(tmp_path):
    check_settings(tmp_path, ["pmp.num_epochs=2"])
    (tmp_path / "seed-0.json").write_text('{"arms": {}, "settings": ["pmp.num_epochs=2"]}')
    check_settings(tmp_path, ["pmp.num_epochs=2"])
    with pytest.raises(SystemExit, match="was measured with pmp.num_epochs=2"):
        check_settings(tmp_path, [])
