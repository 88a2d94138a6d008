"""The same code on CUDA: bfloat16, 4-bit, nccl, a whole round. Marked `gpu`, skipped without a device.

What a CPU can do as well runs on it too (`test_an_update_in_every_precision`), so that these tests are tested themselves.
"""

import socket

import pytest
import torch

from configs.schema import BaseConfig, GenerationConfig, LoraSection, PPOConfig
from policies import parallel
from policies.backbone import Backbone
from policies.fast.batches import pad_batch
from policies.ppo import PPOTrainer, ValueModel
from policies.responses import EncodedPrompt
from tests.conftest import make_causal_lm, perturb
from tests.integration.conftest import SMALL, Workspace


def gpu(test):
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")(test))


@pytest.fixture
def saved(tmp_path):
    model, tokenizer = make_causal_lm(hidden_size=64)  # bitsandbytes packs blocks of 64
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def load(folder, dtype, quantization):
    return Backbone.load(folder, BaseConfig(model=folder, dtype=dtype, quantization=quantization), LoraSection(rank=4))


@pytest.mark.parametrize("layers", ["all", "upper-half"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("dtype", "quantization"), [("float32", "none"), ("bfloat16", "none"), ("bfloat16", "nf4")])
def test_an_update_in_every_precision(saved, dtype, quantization, checkpointing, layers):
    """On the device that is there: the policy moves, the base and the reference do not, the first KL is 0 (to rounding)."""
    config = BaseConfig(model=saved, dtype=dtype, quantization=quantization, gradient_checkpointing=checkpointing)
    backbone = Backbone.load(saved, config, LoraSection(rank=4, layers=layers))
    assert backbone.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    backbone.add_adapter("sft")
    backbone.add_adapter("policy", copy_of="sft")
    base = {name: p.detach().clone() for name, p in backbone.causal_lm.named_parameters() if "lora_" not in name}
    before = backbone.adapter_state("policy")

    def score(records):
        return torch.tensor([float(len(record.token_ids)) for record in records], device=backbone.device)

    ppo = PPOConfig(batch_size=16, num_updates=4, advantage="gae", samples_per_prompt=1, recompute_logprobs=True)
    value = ValueModel(backbone, torch.full((1, 64), 0.01), 0.0, None)
    trainer = PPOTrainer(backbone, value, score, ppo, GenerationConfig(max_new_tokens=8), seed=0)
    prompts = [EncodedPrompt([3 + i, 4, 5][: 1 + i % 3]) for i in range(16)]
    metrics = [trainer.step(update, prompts) for update in range(2)]
    assert abs(metrics[0]["objective/kl"]) < 1e-5
    assert all(torch.isfinite(torch.tensor(list(row.values()))).all() for row in metrics)
    for name, parameter in backbone.causal_lm.named_parameters():
        assert "lora_" in name or torch.equal(parameter, base[name]), name
    assert any(not torch.equal(tensor, before[name]) for name, tensor in backbone.adapter_state("policy").items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.adapter_state("sft").items())
    assert trainer.resident_bytes()["peak"] > sum(stored for name, stored in trainer.resident_bytes().items() if name != "peak") / 2


@gpu
def test_states_equal_those_of_the_cpu(saved):
    backbone = load(saved, "float32", "none")
    backbone.add_adapter("policy")
    perturb(backbone, "policy")
    found = []
    for device in ("cuda", "cpu"):
        backbone.causal_lm.to(device)
        batch = pad_batch([[5, 6, 7], [8]], [[9, 10], [11, 12, 13]], 0, device)
        with torch.no_grad(), backbone.role("policy"):
            found.append(backbone.hidden_states(batch).cpu())
    assert torch.allclose(*found, atol=1e-3)


@gpu
def test_nccl_carries_sums():
    listener = socket.create_server(("127.0.0.1", 0))
    parallel.join(0, 1, "127.0.0.1", parallel.Meeting("127.0.0.1", listener.getsockname()[1], listener), seconds=60.0)
    try:
        assert parallel.all_sum(torch.ones(3, device="cuda")).tolist() == [1.0, 1.0, 1.0]
        assert parallel.agree_number(7) == 7
    finally:
        torch.distributed.destroy_process_group()


@gpu
@pytest.mark.slow
@pytest.mark.parametrize("settings", [["base.dtype=bfloat16"], ["base.dtype=bfloat16", "lora.layers=upper-half"]])
def test_a_whole_round(tmp_path, settings):
    workspace = Workspace(tmp_path, tmp_path / "cache")
    out, _ = workspace.typed("run", "--rounds", "1", "--name", "gpu", *SMALL, *settings)
    assert "round-000/evaluate" in out
