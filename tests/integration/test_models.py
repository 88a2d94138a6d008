"""Every decoder family gives the numbers of plain transformers and PEFT, row by row, with both placements of the adapters.

`python -m tests.integration.test_models` writes docs/models.md from these models. A test fails while it is not current.
"""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel

from configs import UserError
from configs.schema import BaseConfig, GenerationConfig, LoraSection
from policies.backbone import Backbone
from policies.base_folder import check_architecture
from policies.fast.sampling import MergedModel
from policies.generation import generate
from policies.loading import load_causal_lm
from policies.responses import ResponseBatch
from tests.conftest import make_causal_lm, perturb
from tests.unit.policies.model_forms import FORMS, REFUSED, WIDER, tiny_backbone, tiny_model

PROMPTS = [[5, 6, 7], [*range(10, 32)], [9], [40, 41, 42, 43, 44]]
RESPONSES = [[*range(100, 124)], [50, 51, 52, 53, 1], [60], [*range(200, 203)]]
"""With their prompts these rows are longer than the windows of 12 tokens, and much shorter."""
BOTH = ("all", "upper-half")
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
ABOUT = """# Models

<!-- Written by `python -m tests.integration.test_models`. Change the text there. -->

This page says which architectures are tested as base models, which [fast paths](performance.md#what-makes-it-fast) each of them takes, and
which are refused.

A base can be any decoder-only model of transformers that passes a check when it is loaded. The check compares each way in which `loop` runs
the model with transformers' own forward pass on each row alone, without padding and without a KV cache. A fast path is switched off if its
states differ too much. The difference is measured relative to the norm of the states. The limit is 1e-4 in float32, 5e-3 in float16, and
3e-2 in bfloat16 and in 4 bits. Some ways of running the model have no substitute. If one of these differs too much, the base is refused.

The rows of the check have unequal lengths. The longest row has more than 128 tokens. If the model has a sliding window of at most 512
tokens, the longest row is also longer than the window. Decoding is compared in its first three tokens.

Tests run a tiny random model of each form below, with `lora.layers` at `all` and at `upper-half`. They compare

- log-probabilities, and gradients of the adapters in train mode, with those of plain PEFT, row by row;
- greedy samples with those of `generate`;
- log-probabilities in bfloat16 with those in float32, and how far plain PEFT in bfloat16 is from these.

The columns of the table mean:

- *no padding*: passes of training and scoring run without padding.
- *trimmed*: the second half of the last layer runs only for the tokens that are needed.
- *upper half reused*: with `lora.layers=upper-half`, passes start in the middle of the model, from states that were kept. On the other
  models, `upper-half` works too, but passes run through all layers.
- *merged decoding*: sampling uses a copy of the weights with the adapter merged into them. On the other models, sampling uses transformers'
  forward pass.
- *NF4*: the model is also tested in 4 bits.

| model | `model_type` | no padding | trimmed | upper half reused | merged decoding | NF4 |
| --- | --- | --- | --- | --- | --- | --- |"""
REFUSALS = """
## Refused

| model | `model_type` | the reason that the user is told |
| --- | --- | --- |"""


def plain(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The same model and adapter in plain PEFT."""
    return PeftModel.from_pretrained(tiny_model(name, dtype), folder, is_trainable=True).eval()


def plain_logprobs(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    """Log-probs of a response's tokens, computed for its row alone."""
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return logits.float().log_softmax(-1)[torch.arange(len(response)), torch.tensor(response)]


def with_policy(backbone: Backbone, folder: Path, scale: float = 0.1) -> Backbone:
    """Add an adapter that changes the numbers, and save it where plain PEFT reads it."""
    backbone.add_adapter("policy")
    perturb(backbone, "policy", scale)
    backbone.save_adapter("policy", folder)
    return backbone


def start_rows(backbone: Backbone, batch: ResponseBatch) -> list[torch.Tensor] | None:
    """What enters the start layer, for each row, if the backbone has one."""
    with torch.no_grad(), backbone.role("policy"), backbone.fast.capture_start_states() as states:
        backbone.hidden_states(batch.batch)
    lengths = [len(prompt) + len(response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    return list(states[0][0].split(lengths)) if states else None


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of the difference, relative to the norm of what was expected."""
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.slow
@pytest.mark.parametrize("layers", BOTH)
@pytest.mark.parametrize("name", FORMS)
def test_logprobs_and_gradients_are_those_of_plain_peft(name, layers, tmp_path):
    backbone = with_policy(tiny_backbone(name, layers), tmp_path)
    whole, theirs = ResponseBatch.from_ids(backbone, PROMPTS, RESPONSES), plain(name, tmp_path)
    batch = ResponseBatch.from_ids(backbone, PROMPTS, RESPONSES, start_rows=start_rows(backbone, whole))
    with torch.no_grad():
        expected = torch.cat([plain_logprobs(theirs, *row) for row in zip(PROMPTS, RESPONSES, strict=True)])
        for one in (whole, batch):  # from the first layer on, and from the states that enter the upper half
            assert (one.under("policy")[1][one.mask] - expected).abs().max() < 1e-4

    weights = torch.linspace(-1.0, 1.0, len(expected))
    with backbone.role("policy", train=True):
        found = batch.logprobs(batch.states())[batch.mask]
        assert (found.detach() - expected).abs().max() < 1e-4  # train mode changes nothing
        (found * weights).sum().backward()
    rows = [plain_logprobs(theirs, *row) for row in zip(PROMPTS, RESPONSES, strict=True)]
    (torch.cat(rows) * weights).sum().backward()
    ours = {key.replace(".policy.", "."): p.grad for key, p in backbone.causal_lm.named_parameters() if ".policy." in key}
    for key, parameter in theirs.base_model.model.named_parameters():
        if ".default." in key:
            assert relative(ours.pop(key.replace(".default.", ".")), parameter.grad) < 1e-4, key
    assert not ours


@pytest.mark.slow
@pytest.mark.parametrize("layers", BOTH)
@pytest.mark.parametrize("name", FORMS)
def test_greedy_sampling_is_that_of_generate(name, layers, tmp_path):
    """And the log-probs that sampling keeps are those of plain PEFT. A temperature of 1e-5 leaves only the most likely token."""
    backbone = with_policy(tiny_backbone(name, layers), tmp_path)
    theirs, end = plain(name, tmp_path), backbone.tokenizer.eos_token_id
    greedy = generate(backbone, "policy", PROMPTS, [0, 1, 2, 3], GenerationConfig(max_new_tokens=16, temperature=1e-5))
    for prompt, response in zip(PROMPTS, greedy, strict=True):
        ids = torch.tensor([prompt])
        told = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": end, "pad_token_id": 0}
        whole = theirs.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **told)
        assert response.token_ids == whole[0, len(prompt) :].tolist()
    sampled = generate(backbone, "policy", PROMPTS, [4, 5, 6, 7], GenerationConfig(max_new_tokens=16, temperature=1.0), trace=True)
    with torch.no_grad():
        for prompt, response in zip(PROMPTS, sampled, strict=True):
            assert (response.trace.logprobs - plain_logprobs(theirs, prompt, response.token_ids)).abs().max() < 1e-4


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The root mean square of the differences."""
    return (found - expected).square().mean().sqrt().item()


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_bfloat16_rounds_as_much_as_plain_transformers_does(name, tmp_path):
    """The log-probs differ from those in float32 by at most 1.25 times as much as plain PEFT's in bfloat16 do (0.80 to 1.11 was measured).

    The adapter is as small beside the weights as a trained one. Where it is as large as they are, ours rounds it as it rounds them, and
    PEFT keeps it in float32: then the differences are up to 2.4 times as large. 24 rows, because with a few the two differ by chance.
    """
    generator = torch.Generator().manual_seed(1)
    sizes = torch.randint(3, 16, (24, 2), generator=generator).tolist()
    rows = [tuple(torch.randint(3, 90, (size,), generator=generator).tolist() for size in both) for both in sizes]
    backbone = with_policy(tiny_backbone(name, dtype=torch.bfloat16), tmp_path, scale=0.02)
    batch = ResponseBatch.from_ids(backbone, [prompt for prompt, _ in rows], [response for _, response in rows])
    with torch.no_grad():
        ours = batch.under("policy")[1][batch.mask].float()
        exact, rounded = (
            torch.cat([plain_logprobs(model, *row) for row in rows])
            for model in (plain(name, tmp_path), plain(name, tmp_path, torch.bfloat16))
        )
    assert error(ours, exact) < 1.25 * error(rounded, exact)


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDER)
def test_nf4_gives_the_numbers_of_plain_nf4(name, tmp_path):
    """Both read the same 4-bit weights. Their products may be rounded differently, by about 1e-3 of the logits."""
    base, adapter = str(tmp_path / "base"), tmp_path / "adapter"
    tiny_model(name, wider=True).save_pretrained(base)
    make_causal_lm()[1].save_pretrained(base)
    config = BaseConfig(model=base, quantization="nf4")
    backbone = with_policy(Backbone.load(base, config, LoraSection(rank=4)), adapter)
    assert any("4bit" in type(module).__name__ for module in backbone.causal_lm.modules())
    theirs = PeftModel.from_pretrained(load_causal_lm(base, config, "cpu"), adapter).eval()
    batch = ResponseBatch.from_ids(backbone, PROMPTS, RESPONSES)
    with torch.no_grad():
        expected = torch.cat([plain_logprobs(theirs, *row) for row in zip(PROMPTS, RESPONSES, strict=True)])
        assert relative(batch.under("policy")[1][batch.mask], expected) < 1e-3


@functools.cache
def reason_to_refuse(name: str) -> str:
    """What a user is told about a base that is not usable."""
    kind, sizes = REFUSED[name]
    with pytest.raises(UserError) as caught:
        check_architecture(transformers.AutoConfig.for_model(kind).to_dict(), name)
        tiny_backbone(name)
    assert caught.value.to_do and (sizes or "recurrent" in caught.value.what)
    return caught.value.what.partition(" (")[0]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_with_the_reason(name):
    assert "recurrent" in reason_to_refuse(name) or "KV cache" in reason_to_refuse(name)


def row(name: str) -> str:
    """One line of the table: which fast paths the model takes in float32."""
    backbones = [tiny_backbone(name, layers) for layers in BOTH]
    with torch.no_grad(), backbones[0].role(None):
        merged = MergedModel.try_merging(backbones[0].fast, 0) is not None
    paths = backbones[0].fast.paths
    starts = backbones[1].start_layer > 0
    cells = ["yes" if cell else "" for cell in (paths.unpadded, paths.trimmed, starts, merged, name in WIDER)]
    return f"| {name} | `{FORMS[name][0]}` | {' | '.join(cells)} |"


def page() -> str:
    """The text of docs/models.md."""
    refused = [f"| {name} | `{REFUSED[name][0]}` | {reason_to_refuse(name)} |" for name in REFUSED]
    return "\n".join([ABOUT, *map(row, FORMS), REFUSALS, *refused, ""])


@pytest.mark.slow
def test_the_page_of_models_is_current():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.integration.test_models`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
