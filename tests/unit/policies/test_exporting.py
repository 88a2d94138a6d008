"""A policy that was exported gives other programs the numbers of base + adapter. The reference is PEFT on transformers' model."""

import json

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file

from configs import UserError
from configs.schema import BaseConfig, GenerationConfig, LoraSection
from policies.backbone import Backbone
from policies.exporting import export_adapter, export_model, export_usage
from policies.loading import load_causal_lm
from policies.tokenization import encode_messages
from tests.conftest import make_causal_lm, perturb
from tests.unit.policies.model_forms import tiny_model

IDS = torch.tensor([[5, 9, 17, 40, 33, 8, 61, 22]])
LORA = LoraSection(rank=4, alpha=8)
FORMS = ["GPT-2", "Gemma 2", "Llama, RoPE yarn", "Mixtral", "Qwen2, tied"]


def save_base(folder, model):
    model.save_pretrained(folder)
    make_causal_lm()[1].save_pretrained(folder)
    return str(folder)


def save_policy(folder, source, scale=0.1, **base):
    """An adapter as a run would write it."""
    backbone = Backbone.load(source, BaseConfig(model=source, **base), LORA)
    backbone.add_adapter("policy")
    perturb(backbone, "policy", scale)
    backbone.save_adapter("policy", folder)
    return folder


def logprobs(model):
    with torch.no_grad():
        return torch.log_softmax(model.eval()(IDS).logits.float(), -1)


@pytest.fixture
def base(tmp_path):
    return save_base(tmp_path / "base", make_causal_lm()[0])


@pytest.mark.parametrize("name", FORMS)
def test_a_merged_model_gives_the_numbers_of_base_and_adapter(name, tmp_path):
    """Fused layers (GPT-2), two windows, stretched positions, experts, tied weights. The base alone gives other numbers."""
    source = save_base(tmp_path / "base", tiny_model(name))
    policy, out = save_policy(tmp_path / "policy", source), tmp_path / "out"
    found = export_model(out, policy, source, BaseConfig(model=source), LORA)
    plain = transformers.AutoModelForCausalLM.from_pretrained(source)
    before, expected = logprobs(plain), logprobs(PeftModel.from_pretrained(plain, policy))
    merged = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert torch.allclose(logprobs(merged), expected, atol=1e-5) and not torch.allclose(before, expected, atol=1e-2)
    assert found == {"parameters": merged.num_parameters(), "rounding": 0.0}
    assert sorted(path.suffix for path in out.iterdir()) == [".json", ".json", ".safetensors"]


def test_weights_in_bfloat16_are_summed_in_float32_and_the_loss_is_told(tmp_path, base):
    """The sum of each weight is worked out here from the adapter's file: W + alpha / rank x B A, rounded once."""
    policy, out = save_policy(tmp_path / "policy", base, scale=0.02, dtype="bfloat16"), tmp_path / "out"
    found = export_model(out, policy, base, BaseConfig(model=base, dtype="bfloat16"), LORA)
    adapter, stored = load_file(policy / "adapter_model.safetensors"), load_file(out / "model.safetensors")
    original = load_file(f"{base}/model.safetensors")
    lost = changed = 0.0
    for name in (name.removesuffix(".lora_A.weight") for name in adapter if name.endswith(".lora_A.weight")):
        delta = 2.0 * adapter[f"{name}.lora_B.weight"] @ adapter[f"{name}.lora_A.weight"]
        weight = f"{name.removeprefix('base_model.model.')}.weight"
        exact = original[weight].bfloat16().float() + delta
        assert torch.equal(stored[weight], exact.bfloat16())
        lost += (exact.bfloat16().float() - exact).square().sum().item()
        changed += delta.square().sum().item()
    assert found["rounding"] == pytest.approx((lost / changed) ** 0.5, rel=1e-3) and found["rounding"] > 0.01
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def test_weights_of_experts_are_summed_in_float32_too(tmp_path):
    """The base has numbers of bfloat16. So all that is written in bfloat16 is what is written in float32, rounded once."""
    source = save_base(tmp_path / "base", tiny_model("Mixtral", torch.bfloat16))
    policy = save_policy(tmp_path / "policy", source, scale=0.02)
    for dtype in ("float32", "bfloat16"):
        export_model(tmp_path / dtype, policy, source, BaseConfig(model=source, dtype=dtype), LORA)
    exact, stored, before = (load_file(tmp_path / folder / "model.safetensors") for folder in ("float32", "bfloat16", "base"))
    assert exact.keys() == stored.keys() == before.keys()
    assert all(torch.equal(stored[name], exact[name].bfloat16()) for name in exact)
    assert any("experts" in name and not torch.equal(stored[name], before[name]) for name in exact)


def test_a_base_in_nf4_becomes_plain_weights_with_its_values(tmp_path):
    """The adapter was trained on what the 4-bit numbers stand for. Products of 4-bit weights are rounded by about 1e-3 of the logits."""
    source = save_base(tmp_path / "base", make_causal_lm(hidden_size=64)[0])  # bitsandbytes packs blocks of 64
    config = BaseConfig(model=source, quantization="nf4")
    policy, out = save_policy(tmp_path / "policy", source, quantization="nf4"), tmp_path / "out"
    export_model(out, policy, source, config, LORA)
    expected = logprobs(PeftModel.from_pretrained(load_causal_lm(source, config, "cpu"), policy))
    merged = transformers.AutoModelForCausalLM.from_pretrained(out)
    unquantized = logprobs(PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(source), policy))
    near, far = ((logprobs(merged) - other).norm() / expected.norm() for other in (expected, unquantized))
    assert near < 1e-3 < 1e-2 < far
    assert "quantization_config" not in json.loads((out / "config.json").read_text())


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")  # PEFT warns of what is refused here
def test_an_adapter_of_a_weight_with_two_roles_cannot_be_merged(tmp_path):
    model = tiny_model("Qwen2, tied")
    source, lora = save_base(tmp_path / "base", model), LoraSection(rank=4, target_modules=["lm_head"])
    backbone = Backbone.load(source, BaseConfig(model=source), lora)
    backbone.add_adapter("policy")
    backbone.save_adapter("policy", tmp_path / "policy")
    with pytest.raises(UserError, match=r"two roles.*embed_tokens.weight and lm_head.weight"):
        export_model(tmp_path / "out", tmp_path / "policy", source, BaseConfig(model=source), lora)


def test_a_base_that_is_quantized_by_itself_is_refused(tmp_path, base, monkeypatch):
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    model.hf_quantizer = object()
    monkeypatch.setattr("policies.exporting.load_causal_lm", lambda *given: model)
    with pytest.raises(UserError, match="weights of the base are quantized"):
        export_model(tmp_path / "out", tmp_path, base, BaseConfig(model=base), LORA)


def test_the_config_stays_that_of_the_base_and_older_programs_can_read_it(tmp_path):
    """An entry that transformers does not know is kept, and the speed of the rotary angles is where version 4 looks for it."""
    model, _ = make_causal_lm()
    model.config.rope_parameters = {"rope_theta": 5e5, "rope_type": "default"}
    source = save_base(tmp_path / "base", model)
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"a_note": "kept", "use_cache": False}))
    (tmp_path / "base" / "tokenizer.model").write_bytes(b"a first form")
    policy, out = save_policy(tmp_path / "policy", source), tmp_path / "out"
    export_model(out, policy, source, BaseConfig(model=source), LORA)
    export_usage(out, source, BaseConfig(model=source), GenerationConfig(), is_chat=True)
    found = json.loads((out / "config.json").read_text())
    assert (found["a_note"], found["rope_theta"], found["torch_dtype"], found["use_cache"]) == ("kept", 5e5, "float32", True)
    tokenizer = json.loads((out / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast" and "extra_special_tokens" not in tokenizer
    assert (out / "tokenizer.model").read_bytes() == b"a first form" and (out / "chat_template.jinja").exists()
    before, after = (transformers.AutoTokenizer.from_pretrained(folder) for folder in (source, out))
    assert before("<|user|>มะม่วง")["input_ids"] == after("<|user|>มะม่วง")["input_ids"]
    assert set(before.all_special_ids) == set(after.all_special_ids)


def test_generation_is_as_in_the_run(tmp_path, base):
    """Both end tokens of the base count. Its penalty does not, because the run did not use it."""
    transformers.GenerationConfig(eos_token_id=[1, 7], repetition_penalty=1.3, bos_token_id=3).save_pretrained(base)
    run = GenerationConfig(temperature=0.6, top_p=0.9, max_new_tokens=24)
    out = tmp_path / "out"
    out.mkdir()
    found = export_usage(out, base, BaseConfig(model=base), run, is_chat=True)
    saved = transformers.GenerationConfig.from_pretrained(out)
    assert (saved.do_sample, saved.temperature, saved.top_p, saved.top_k, saved.max_new_tokens) == (True, 0.6, 0.9, 0, 24)
    assert (saved.eos_token_id, saved.bos_token_id, saved.pad_token_id) == ([1, 7], 3, 0) and saved.repetition_penalty in (None, 1.0)
    assert found["end_tokens"][0] == "<|end|>" and len(found["end_tokens"]) == 2 and found["has_template"]


def test_an_adapter_names_its_base_where_it_is_now(tmp_path, base):
    policy, out = save_policy(tmp_path / "policy", base), tmp_path / "out"
    (tmp_path / "base").rename(tmp_path / "moved")
    out.mkdir()
    export_adapter(out, policy, str(tmp_path / "moved"), BaseConfig(revision="abc"))
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (str(tmp_path / "moved"), "abc")
    assert (out / "adapter_model.safetensors").read_bytes() == (policy / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("begins", [False, True], ids=["plain", "with a token at the beginning"])
def test_a_base_without_a_chat_template_gets_the_form_that_its_prompts_had(tmp_path, base, begins):
    """The template writes the same ids as `encode_messages`, also where the tokenizer puts a token in front of each text."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = None
    if begins:
        tokenizer.bos_token = "<|system|>"
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|system|> $A", special_tokens=[("<|system|>", tokenizer.bos_token_id)]
        )
    plain = tmp_path / "plain"
    transformers.AutoModelForCausalLM.from_pretrained(base).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    dialogue = [("system", "Be brief."), ("user", "สีอะไร"), ("assistant", " Red."), ("user", "Why?\n")]
    messages = [{"role": role, "content": content} for role, content in dialogue]
    out, nothing = tmp_path / "out", tmp_path / "nothing"
    for folder in (out, nothing):
        folder.mkdir()
    assert export_usage(out, str(plain), BaseConfig(model=str(plain)), GenerationConfig(), is_chat=True)["has_template"]
    assert not export_usage(nothing, str(plain), BaseConfig(model=str(plain)), GenerationConfig(), is_chat=False)["has_template"]
    after = transformers.AutoTokenizer.from_pretrained(out)
    expected = encode_messages(transformers.AutoTokenizer.from_pretrained(plain), messages, add_generation_prompt=True)
    assert after.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"] == expected
    assert (expected[0] == tokenizer.bos_token_id) == begins
