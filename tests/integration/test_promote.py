"""A promoted policy of a small run, as other programs load it: transformers and PEFT, which know nothing of this project."""

import json
import re

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from loop.promotion.choosing import choose_round
from loop.store.journal import fold, read_events
from loop.store.layout import RunFolder
from tests.forked import printed_by

pytestmark = pytest.mark.slow
QUESTIONS = ["What colour is a mango?", "มะม่วงสีอะไร", "Where is the hotel?"]


@pytest.fixture(scope="module")
def folder(workspace):
    """A small run whose policy was trained enough to differ from its base, and both forms of its export."""
    workspace.small("shipped", "--rounds", "1", "ppo.num_updates=6", "sft.num_epochs=4")
    workspace.loop("promote", "shipped", "0", "--out", "model")
    workspace.loop("promote", "shipped", "0", "--adapter", "--out", "adapter")
    return workspace.folder


def answers(model, tokenizer):
    """For each question: log-probs of all tokens after its prompt, and the greedy answer."""
    found = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logprobs = torch.log_softmax(model.eval()(ids).logits, -1)
            answer = model.generate(ids, do_sample=False, max_new_tokens=24)[0, ids.shape[1] :]
        found.append((logprobs, tokenizer.decode(answer)))
    return found


def test_transformers_and_peft_get_the_numbers_and_the_texts_of_base_and_adapter(folder):
    """In float32 to 1e-5. Base and adapter come from the run's own folders. The bare base answers differently."""
    run, model, adapter = folder / "runs" / "shipped", folder / "model", folder / "adapter"
    base, tokenizer = run / "setup" / "base", AutoTokenizer.from_pretrained(run / "setup" / "base")
    bare = answers(AutoModelForCausalLM.from_pretrained(base), tokenizer)
    expected = answers(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run / "round-000" / "policy"), tokenizer)
    forms = {
        "model": (AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)),
        "adapter": (
            PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter),
            AutoTokenizer.from_pretrained(adapter),
        ),
    }
    for form, (loaded, its_tokenizer) in forms.items():
        for (logprobs, text), (logprobs_expected, text_expected) in zip(answers(loaded, its_tokenizer), expected, strict=True):
            assert torch.allclose(logprobs, logprobs_expected, atol=1e-5) and text == text_expected, form
    assert not all(torch.allclose(one[0], other[0], atol=1e-3) for one, other in zip(bare, expected, strict=True))
    generation = json.loads((model / "generation_config.json").read_text())
    assert (generation["temperature"], generation["max_new_tokens"], generation["eos_token_id"]) == (0.7, 12, 1)


@pytest.mark.parametrize("form", ["model", "adapter"])
def test_the_cards_code_runs_without_a_network(folder, form):
    code = re.search(r"```python\n(.*?)```", (folder / form / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    assert printed_by(code, folder / form).endswith("\n")


def test_a_round_can_be_chosen_by_what_the_run_has_measured(folder):
    """The difference is paired by the prompts of the two policies' own files."""
    run = RunFolder(folder / "runs" / "shipped")
    choice = choose_round(run, fold(read_events(run.journal)))
    assert "highest true reward on 32 held-out prompts" in choice.lines[0] and "prompt by prompt" in " ".join(choice.lines)


def test_the_run_is_as_it_was(folder, workspace):
    assert "nothing damaged" in workspace.loop("verify", "shipped")[0]
