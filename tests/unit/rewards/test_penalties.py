"""Rules as penalties in what PPO maximizes."""

import pytest
import torch

from configs import UserError, load_config
from policies import parallel
from policies.responses import ResponseRecord
from policies.tokenization import encode_completion
from rewards.penalties import penalized
from rewards.rules import find_rules
from rewards.user_scores import by_function
from rewards.world import writer


def response(backbone, prompt, text, prompt_id="p"):
    ids = encode_completion(backbone.tokenizer, text)
    return ResponseRecord(prompt, True, prompt_id, "", [], ids, backbone.tokenizer)


def score_of_one(records):
    return [1.0] * len(records)


def test_each_defect_costs_its_penalty(backbone):
    """1 - 0.5 for a repetition, 1 - 0.25 for a list, both, and none."""
    penalties = {"repetition": 0.5, "list_only": 0.25}
    texts = ["yes yes yes yes", "- one\n- two", "- yes yes yes yes\n- yes yes yes yes", "Yes."]
    score = penalized(score_of_one, find_rules(list(penalties)), penalties)
    found = score([response(backbone, "Is it so?", text) for text in texts])
    assert found.dtype == torch.float32 and found.tolist() == [0.5, 0.75, 0.25, 1.0]


def test_the_world_has_its_own_definitions(backbone):
    """A name in the middle of a sentence is a defect of the world, and of no other answer."""
    prompt = next(p for p in writer.all_prompts().values() if p.language == "en")
    score = penalized(score_of_one, find_rules(["foreign_word"]), {"foreign_word": 1.0})
    records = [response(backbone, prompt.as_messages(), "It is from Rosey today.", id) for id in (prompt.id, "another")]
    assert score(records).tolist() == [0.0, 1.0]


def test_responses_of_a_batch_are_compared_with_those_to_other_prompts(backbone):
    text = "one two three four five six seven eight nine ten"
    score = penalized(score_of_one, find_rules(["near_duplicate"]), {"near_duplicate": 1.0})
    records = [response(backbone, prompt, text) for prompt in ("a", "a", "b")] + [response(backbone, "c", "one two three")]
    assert score(records).tolist() == [0.0, 0.0, 0.0, 1.0]
    assert score(records[:2]).tolist() == [1.0, 1.0]  # both to the same prompt


def test_responses_are_compared_with_those_of_other_workers(backbone, monkeypatch):
    """Else a run with two workers would have other scores than one with one worker. The other worker has answered the prompt b."""
    text = "one two three four five six seven eight nine ten"
    monkeypatch.setattr(parallel, "gather", lambda texts: [*texts, ("b", text)])
    score = penalized(score_of_one, find_rules(["near_duplicate"]), {"near_duplicate": 1.0})
    assert score([response(backbone, "a", text), response(backbone, "b", text)]).tolist() == [0.0, 0.0]
    assert score([response(backbone, "a", text)]).tolist() == [0.0]
    assert score([response(backbone, "b", text)]).tolist() == [1.0]


def test_a_function_scores_responses_and_is_checked(backbone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "def score(answers): return [len(a.completion) + (a.prompt == 'q') for a in answers]\n"
        "def few(answers): return []\n"
        "def odd(answers): return [float('nan') for _ in answers]\n"
        "def nothing(answers): pass\n"
        "def some(answers): return [1.0, None]\n"
    )
    records = [response(backbone, "q", "ab"), response(backbone, "other", "abc")]
    assert by_function("mine.py:score")(records) == [3.0, 3.0]
    with pytest.raises(UserError, match="it gave 0 scores for 2 answers"):
        by_function("mine.py:few")(records)
    with pytest.raises(UserError, match="it gave the score nan"):
        by_function("mine.py:odd")(records)
    with pytest.raises(UserError, match="it gave no scores but NoneType"):
        by_function("mine.py:nothing")(records)
    with pytest.raises(UserError, match="it gave the score None, which is no number"):
        by_function("mine.py:some")(records)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("ppo.penalties={repetiton: 0.5}", "ppo.penalties"),
        ("ppo.penalties={repetition: -1}", "ppo.penalties.repetition must be at least 0"),
        ("ppo.penalties=0.5", "ppo.penalties must be"),
    ],
)
def test_penalties_that_are_none_are_refused(word, message):
    with pytest.raises(UserError, match=message):
        load_config(overrides=[word])
    assert load_config(overrides=["ppo.penalties={repetition: 0.5, 'mine.py:long': 1}"]).ppo.penalties["mine.py:long"] == 1.0
