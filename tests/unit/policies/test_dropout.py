"""Nothing is random in train mode for any architecture, and training changes nothing but its adapter."""

from typing import Any

import pytest
import torch
import transformers

from configs import UserError
from configs.schema import LoraSection, RewardConfig, SelectConfig, TrainerSection
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from policies.responses import ResponseBatch
from policies.sft import train_sft
from rewards.comparisons import Candidate, CandidateGroup, Comparison
from rewards.reward_model import train_reward_model
from rewards.selectors.listwise import train_selector
from tests.conftest import make_causal_lm

DROPOUT = 0.3
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
LLAMA = SIZES | {"intermediate_size": 64, "num_key_value_heads": 2, "attention_dropout": DROPOUT}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "resid_pdrop": DROPOUT, "embd_pdrop": DROPOUT, "attn_pdrop": DROPOUT}
ALL_KINDS = {"dropout": DROPOUT, "attention_dropout": DROPOUT, "activation_dropout": DROPOUT, "layerdrop": DROPOUT}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "biogpt": SIZES | ALL_KINDS | {"intermediate_size": 64, "hidden_dropout_prob": DROPOUT, "attention_probs_dropout_prob": DROPOUT},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2, "hidden_dropout": DROPOUT, "attention_dropout": DROPOUT},
    "codegen": GPT | {"n_head": 4, "rotary_dim": 8},
    "falcon": SIZES | {"hidden_dropout": DROPOUT, "attention_dropout": DROPOUT},
    "gemma2": LLAMA | {"head_dim": 16},
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": 64,
        "embed_dropout": DROPOUT,
        "attention_dropout": DROPOUT,
        "resid_dropout": DROPOUT,
    },
    "gpt_neox": SIZES | {"intermediate_size": 64, "hidden_dropout": DROPOUT, "attention_dropout": DROPOUT},
    "gptj": GPT | {"rotary_dim": 8},
    "llama": LLAMA,
    "mistral": LLAMA,
    "mixtral": LLAMA | {"num_local_experts": 2, "router_jitter_noise": DROPOUT},
    "olmo": LLAMA,
    "opt": SIZES | ALL_KINDS | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "persimmon": SIZES | {"intermediate_size": 64, "hidden_dropout": DROPOUT, "attention_dropout": DROPOUT},
    "phi": LLAMA | {"resid_pdrop": DROPOUT, "embd_pdrop": DROPOUT},
    "phi3": LLAMA | {"resid_pdrop": DROPOUT, "embd_pdrop": DROPOUT},
    "qwen2": LLAMA,
    "qwen3": LLAMA | {"head_dim": 16},
    "stablelm": LLAMA | {"hidden_dropout": DROPOUT},
    "starcoder2": LLAMA | {"residual_dropout": DROPOUT, "embedding_dropout": DROPOUT},
    "xglm": ALL_KINDS | {"d_model": 32, "num_layers": 2, "attention_heads": 2, "ffn_dim": 64, "max_position_embeddings": 64},
}


def tiny(kind: str) -> Any:
    """Make a random two-layer model of one architecture, with every dropout probability that it has at 0.3."""
    _, tokenizer = make_causal_lm()
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = transformers.AutoConfig.for_model(kind, vocab_size=len(tokenizer), initializer_range=0.3, **ids, **ARCHITECTURES[kind])
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config), tokenizer


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_train_mode_computes_what_eval_mode_computes(kind):
    backbone = Backbone(*tiny(kind), LoraSection(rank=4))
    backbone.add_adapter("policy")
    responses = ResponseBatch.from_ids(backbone, [[5, 6, 7], [8, 9]], [[10, 11, 1], [12, 13, 14, 15]])
    batch = responses.batch

    def logprobs(train: bool) -> torch.Tensor:
        with torch.no_grad(), backbone.role("policy", train=train):
            return responses.logprobs(responses.states())

    def logits_as_trl_asks(train: bool) -> torch.Tensor:
        with torch.no_grad(), backbone.role("policy", train=train):
            return backbone.causal_lm(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[batch.attention_mask.bool()]

    for ask in (logprobs, logits_as_trl_asks):
        sampling, training = ask(train=False), ask(train=True)
        assert (training - sampling).abs().max() < 1e-6
        assert torch.equal(training, ask(train=True))


def test_a_base_that_is_random_in_train_mode_by_other_means_is_refused():
    """Some noise is not a number in the config. For example, phi-moe draws its experts at random in train mode."""

    class Noisy(torch.nn.Linear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return super().forward(states) + (torch.randn(self.out_features) if self.training else 0.0)

    model, tokenizer = make_causal_lm()
    model.model.layers[0].mlp.down_proj = Noisy(64, 32, bias=False)
    with pytest.raises(UserError, match="other numbers in train mode"):
        Backbone(model, tokenizer, LoraSection(rank=4), name="noisy")


def test_training_leaves_nothing_behind_but_its_adapter():
    """A process that has trained the reward model must continue like one that resumed after it. TRL's RewardTrainer used to leave other
    dropout behind."""
    backbone = Backbone(*tiny("gpt2"), LoraSection(rank=4))
    for name in ("sft", "reward", "selector"):
        backbone.add_adapter(name)
    ours = {"_active_adapter"}  # which adapter was active last: `role` sets it for each pass
    marks = {"_is_accelerate_prepared", "forward", "model_tags"}  # SFTTrainer's, for `causal_lm.forward`, which only SFT calls

    def state() -> dict[str, Any]:
        modules = {
            f"{name}.{key}": value
            for name, module in backbone.causal_lm.named_modules()
            for key, value in vars(module).items()
            if isinstance(value, int | float | str | None) and key not in ours | marks
        }
        frozen = {name: p.requires_grad for name, p in backbone.causal_lm.named_parameters()}
        return modules | frozen | {"config": backbone.causal_lm.config.to_dict(), "tokenizer": repr(backbone.tokenizer)}

    before = state()
    train_sft(backbone, "sft", [([5, 6, 7], [8, 9, 1])] * 16, TrainerSection(batch_size=8), Checkpoints(), 0, report_nothing)
    assert state() == before
    pairs = [Comparison(f"p{i}", f"mango {i}?", "yellow", "green") for i in range(16)]
    train_reward_model(backbone, "reward", pairs, RewardConfig(batch_size=8), Checkpoints(), 0, report_nothing)
    assert state() == before
    groups = [CandidateGroup(f"p{i}", "mango?", [Candidate("green", True, 0.0), Candidate("yellow", True, 2.0)]) for i in range(16)]
    train_selector(backbone, "selector", groups, SelectConfig(batch_size=8), Checkpoints(), 0, report_nothing)
    assert state() == before
