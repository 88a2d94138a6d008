"""Many adapters on one base: roles restore everything, artifacts are PEFT's, and the base never changes."""

import json

import pytest
import torch
import transformers
from peft import PeftModel

from configs import UserError
from configs.schema import BaseConfig, GenerationConfig, LoraSection
from policies.backbone import Backbone
from policies.fast.batches import pad_batch
from policies.generation import generate
from policies.loading import load_causal_lm
from policies.parallel import flattened
from policies.responses import ResponseBatch
from tests.conftest import make_causal_lm, perturb

PROMPTS, RESPONSES = [[5, 6, 7], [8, 9]], [[10, 11, 1], [12, 13, 14, 15]]


def logprobs(backbone, adapter, prompts=PROMPTS, responses=RESPONSES):
    return ResponseBatch.from_ids(backbone, prompts, responses, temperature=0.7).under(adapter)[1]


def test_adapters_off_is_the_base_bit_for_bit(backbone):
    before = logprobs(backbone, None)
    backbone.add_adapter("policy")
    perturb(backbone, "policy")
    assert torch.equal(logprobs(backbone, None), before)
    assert not torch.allclose(logprobs(backbone, "policy"), before)


def test_a_fresh_adapter_changes_nothing_and_a_copy_is_equal(backbone):
    base = logprobs(backbone, None)
    backbone.add_adapter("sft", seed=1)
    assert torch.allclose(logprobs(backbone, "sft"), base, atol=1e-6)
    perturb(backbone, "sft")
    backbone.add_adapter("policy", copy_of="sft")
    assert torch.equal(logprobs(backbone, "policy"), logprobs(backbone, "sft"))


def test_an_adapter_in_the_tensors_of_a_deleted_one_is_as_if_made_anew(backbone):
    """PPO trains the adapter as a part of one vector (`flattened`), and its gradients stay in it."""
    backbone.add_adapter("sft", seed=1)
    perturb(backbone, "sft")
    backbone.add_adapter("policy", copy_of="sft")
    vector = flattened(backbone.parameters("policy"))
    vector.grad.fill_(7.0)
    tensors = backbone.parameters("policy")
    backbone.delete_adapter("policy")
    assert not any(tensor.any() for tensor in tensors)
    backbone.add_adapter("reward", copy_of="sft")
    names = [name for name, _ in backbone.causal_lm.named_parameters() if "lora_" in name]
    assert {id(parameter) for parameter in backbone.parameters("reward")} == {id(parameter) for parameter in tensors}
    assert all(".sft." in name or ".reward." in name for name in names)
    assert torch.equal(logprobs(backbone, "reward"), logprobs(backbone, "sft"))
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in backbone.parameters("reward"))
    perturb(backbone, "reward")
    assert vector.isfinite().all() and all(p.untyped_storage().data_ptr() != vector.untyped_storage().data_ptr() for p in tensors)


def test_adapters_come_and_go_in_any_order(backbone, tmp_path):
    """PEFT believes that the first adapter is the active one for ever, so that one is deleted too."""
    backbone.add_adapter("first", seed=1)
    perturb(backbone, "first")
    backbone.save_adapter("first", tmp_path)
    before = logprobs(backbone, "first")
    backbone.delete_adapter("first")
    for name in ("a", "b"):
        backbone.add_adapter(name, folder=tmp_path)  # in the tensors of the first one, and in new ones
        assert torch.equal(logprobs(backbone, name), before)
    backbone.add_adapter("new", seed=2)
    assert torch.allclose(logprobs(backbone, "new"), logprobs(backbone, None), atol=1e-6)
    for name in ("a", "b", "new", "never there"):
        backbone.delete_adapter(name)
    for name in ("new", "new", "new"):  # made by PEFT each time, and one of the deleted three goes each time
        backbone.add_adapter(name, seed=2)
        assert torch.allclose(logprobs(backbone, "new"), logprobs(backbone, None), atol=1e-6)
    kept = {key.split(".")[-2] for key, _ in backbone.causal_lm.named_parameters() if "lora_" in key}
    assert len(kept) == 3, kept
    with pytest.raises(KeyError):
        backbone.parameters("a")


def test_a_role_restores_adapter_gradients_and_mode(backbone):
    backbone.add_adapter("a")
    backbone.add_adapter("b")

    def trainable():
        return {name for name, p in backbone.causal_lm.named_parameters() if p.requires_grad}

    assert trainable() == set()
    with backbone.role("a", train=True):
        assert backbone.causal_lm.training
        assert trainable() and all(".a." in name for name in trainable())
        with backbone.role("b"):
            assert not trainable() and not backbone.causal_lm.training
        with backbone.role(None):
            assert not trainable()
        assert trainable() and all(".a." in name for name in trainable())
        with pytest.raises(RuntimeError), backbone.role("b", train=True):
            raise RuntimeError
        assert all(".a." in name for name in trainable()) and backbone.causal_lm.training
    assert trainable() == set() and not backbone.causal_lm.training


def test_padding_and_company_do_not_change_logprobs(backbone):
    backbone.add_adapter("policy")
    perturb(backbone, "policy")
    together = logprobs(backbone, "policy")
    for row in range(2):
        alone = logprobs(backbone, "policy", PROMPTS[row : row + 1], RESPONSES[row : row + 1])[0]
        assert torch.allclose(together[row, : len(alone)], alone, atol=1e-5)


def test_a_saved_adapter_loads_with_peft_and_gives_the_same_logprobs(backbone, tmp_path):
    backbone.add_adapter("policy")
    perturb(backbone, "policy")
    ours = logprobs(backbone, "policy")
    backbone.save_adapter("policy", tmp_path)
    model, _ = make_causal_lm()
    theirs = PeftModel.from_pretrained(model, tmp_path).eval()
    batch = pad_batch(PROMPTS, RESPONSES, 0)
    with torch.no_grad():
        logits = theirs(input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids).logits
    distribution = torch.log_softmax(logits[:, batch.prompt_length - 1 : -1] / 0.7, -1)
    expected = distribution.gather(-1, batch.input_ids[:, batch.prompt_length :, None])[..., 0] * batch.response_mask
    assert torch.allclose(ours, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_on_the_head_is_in_all_log_probs(tmp_path, tied):
    """Log-probs, gradients and both ways of sampling equal plain PEFT's. A tied head is the embedding too, which stays as it is."""

    def make_model():
        model, tokenizer = make_causal_lm()
        model.config.tie_word_embeddings = tied
        model.tie_weights()
        return model, tokenizer

    backbone = Backbone(*make_model(), LoraSection(rank=4, target_modules=["q_proj", "lm_head"]))
    backbone.add_adapter("policy")
    perturb(backbone, "policy")
    backbone.save_adapter("policy", tmp_path)
    theirs = PeftModel.from_pretrained(make_model()[0], tmp_path, is_trainable=True).eval()
    batch = ResponseBatch.from_ids(backbone, PROMPTS, RESPONSES)

    def plain(prompts, responses):
        rows = zip(prompts, responses, strict=True)
        logits = [(theirs(input_ids=torch.tensor([[*p, *r]])).logits[0, len(p) - 1 : -1], r) for p, r in rows]
        return torch.cat([row.log_softmax(-1)[range(len(r)), r] for row, r in logits])

    with backbone.role("policy", train=True):
        found = batch.logprobs(batch.states())[batch.mask]
        ours = torch.autograd.grad(found.sum(), backbone.parameters("policy"))
    expected = plain(PROMPTS, RESPONSES)
    assert torch.allclose(found, expected, atol=1e-5)
    trained = [parameter for name, parameter in theirs.named_parameters() if parameter.requires_grad]
    for gradient, other in zip(ours, torch.autograd.grad(expected.sum(), trained), strict=True):
        assert gradient.norm() > 0 and torch.allclose(gradient, other, atol=1e-4)
    for merged in (None, False):
        backbone.fast.paths.merged_decoding = merged
        sampled = generate(backbone, "policy", PROMPTS, [1, 2], GenerationConfig(max_new_tokens=6, temperature=1.0), trace=True)
        assert backbone.fast.paths.merged_decoding is not None
        kept = torch.cat([response.trace.logprobs for response in sampled])
        assert torch.allclose(kept, plain(PROMPTS, [response.token_ids for response in sampled]), atol=1e-5)


def test_an_adapter_on_the_embedding_is_one_like_the_others(tmp_path):
    """PEFT keeps its matrices under other names. It is copied, saved, trained in its role, and off outside of it."""
    backbone = Backbone(*make_causal_lm(), LoraSection(rank=4, target_modules=["q_proj", "embed_tokens"]))
    base = logprobs(backbone, None)
    backbone.add_adapter("sft")
    assert len(backbone.parameters("sft")) == 6 and not any(p.requires_grad for p in backbone.causal_lm.parameters())
    perturb(backbone, "sft")
    backbone.add_adapter("policy", copy_of="sft")
    found = logprobs(backbone, "policy")
    assert torch.equal(found, logprobs(backbone, "sft")) and torch.equal(logprobs(backbone, None), base)
    backbone.save_adapter("policy", tmp_path)
    theirs = PeftModel.from_pretrained(make_causal_lm()[0], tmp_path).eval()
    ours = generate(backbone, "policy", PROMPTS, [1, 2], GenerationConfig(max_new_tokens=6, temperature=1.0), trace=True)
    for prompt, response in zip(PROMPTS, ours, strict=True):
        logits = theirs(input_ids=torch.tensor([[*prompt, *response.token_ids]])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[range(len(response.token_ids)), response.token_ids]
        assert torch.allclose(response.trace.logprobs, expected, atol=1e-5)
    batch = ResponseBatch.from_ids(backbone, PROMPTS, RESPONSES)
    with backbone.role("policy", train=True):
        gradients = torch.autograd.grad(batch.logprobs(batch.states()).sum(), backbone.parameters("policy"))
    assert all(gradient.any() for gradient in gradients)
    backbone.delete_adapter("policy")
    assert not torch.allclose(found, base, atol=1e-2) and not any(p.requires_grad for p in backbone.causal_lm.parameters())


@pytest.mark.parametrize("target", [["nothing"], "q_proj", ["input_layernorm"]])
def test_a_target_that_is_no_layer_of_the_base_is_the_users_mistake(target):
    backbone = Backbone(*make_causal_lm(), LoraSection(target_modules=target))
    with pytest.raises(UserError, match="PEFT finds no place for an adapter: .*arget module") as caught:
        backbone.add_adapter("sft")
    assert caught.value.where == f"lora.target_modules={target}"


def test_saved_configs_are_canonical(backbone, tmp_path):
    backbone.add_adapter("policy")
    backbone.save_adapter("policy", tmp_path)
    text = (tmp_path / "adapter_config.json").read_text()
    config = json.loads(text)
    assert text == json.dumps(config, indent=2, sort_keys=True) + "\n"
    assert config["target_modules"] == sorted(config["target_modules"])


def test_upper_half_leaves_the_lower_layers_alone():
    model, tokenizer = make_causal_lm()
    backbone = Backbone(model, tokenizer, LoraSection(rank=4, layers="upper-half"))
    backbone.add_adapter("policy")
    names = [name for name, _ in backbone.causal_lm.named_parameters() if "lora_" in name]
    assert names and all(".layers.1." in name for name in names)


def test_what_is_not_a_causal_lm_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"]}))
    with pytest.raises(UserError, match="not a causal language model"):
        load_causal_lm(str(tmp_path), BaseConfig(), "cpu")
    with pytest.raises(UserError, match="there is no model"):
        load_causal_lm(str(tmp_path / "none"), BaseConfig(), "cpu")


def test_a_four_bit_base_carries_adapters(tmp_path):
    model, tokenizer = make_causal_lm(hidden_size=64)  # bitsandbytes packs blocks of 64
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backbone = Backbone.load(str(tmp_path), BaseConfig(model=str(tmp_path), quantization="nf4"), LoraSection(rank=4))
    assert any("4bit" in type(module).__name__ for module in backbone.causal_lm.modules())
    before = logprobs(backbone, None)
    backbone.add_adapter("policy")
    perturb(backbone, "policy")
    assert not torch.equal(logprobs(backbone, "policy"), before)
    assert torch.equal(logprobs(backbone, None), before)


def test_merged_weights_leave_the_base_bit_for_bit(backbone):
    backbone.add_adapter("policy")
    perturb(backbone, "policy")
    before = {name: (p.data_ptr(), p.detach().clone()) for name, p in backbone.causal_lm.named_parameters()}
    batch = pad_batch(PROMPTS, RESPONSES, 0)
    with torch.no_grad():
        with backbone.role("policy"):
            beside = backbone.hidden_states(batch)
        with pytest.raises(RuntimeError), backbone.merged("policy"):
            assert torch.allclose(backbone.hidden_states(batch), beside, atol=1e-4)
            raise RuntimeError
    for name, p in backbone.causal_lm.named_parameters():
        assert p.data_ptr() == before[name][0] and torch.equal(p, before[name][1]) and not p.requires_grad


def test_all_roles_together_store_little_more_than_the_base():
    """Rank 16 on 8 x 512: an adapter has 8 x (4 x 1,024 + 3 x 2,048) x 16 = 1.31 M weights, the base 29.4 M, so four adapters
    (reference, policy, reward, selector) and four heads add 18 %. Bytes are counted by storage, so a hidden copy would show."""
    config = transformers.LlamaConfig(
        vocab_size=2048, hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8, pad_token_id=0
    )
    backbone = Backbone(transformers.LlamaForCausalLM(config), make_causal_lm()[1], LoraSection(rank=16))

    def stored(*more):
        tensors = [*backbone.causal_lm.parameters(), *more]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

    base = stored()
    for name in ("sft", "policy", "reward", "selector"):
        backbone.add_adapter(name)
    heads = [torch.zeros(1, 512) for _ in range(4)]
    assert 1.1 * base < stored(*heads) <= 1.25 * base
