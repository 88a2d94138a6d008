"""What several tests share: a tiny backbone that is not trained, and the folder of real data."""

import copy
import functools
import gc
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a second thread makes the tiny models of the tests slower


def pytest_itemcollected():
    """Where a collected test needs forked processes, the process that they are forked from starts while the other tests are collected."""
    if forked := sys.modules.get("tests.forked"):
        forked.start_server()


def pytest_collection_finish():
    """What is imported by now lives to the end, so the garbage collector need not look through it, which trainers have it do each time."""
    gc.freeze()


SHARED_DATA = Path(os.environ.get("LOOP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@functools.cache
def _trained_tokenizer():
    from policies.tiny_base import train_tokenizer

    return train_tokenizer(["The mango is yellow.", "มะม่วงสีเหลืองค่ะ"], 300)


def make_causal_lm(seed: int = 0, hidden_size: int = 32):
    """A random 2-layer Llama and a byte-level tokenizer with the embedded chat template. Both are the caller's own."""
    import torch
    import transformers

    tokenizer = copy.deepcopy(_trained_tokenizer())
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            initializer_range=0.3,  # far from uniform, so that differences between roles are visible
        )
    )
    return model, tokenizer


@pytest.fixture
def backbone():
    from configs.schema import LoraSection
    from policies.backbone import Backbone

    model, tokenizer = make_causal_lm()
    return Backbone(model, tokenizer, LoraSection(rank=4, alpha=8), name="tiny")


def perturb(backbone, adapter: str, scale: float = 0.1, seed: int = 0) -> None:
    """Make an adapter differ from zero, as training would."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for parameter in backbone.parameters(adapter):
        parameter.data += scale * torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def shared_data():
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data is not here: {SHARED_DATA} (set LOOP_SHARED_DATA)")
    return SHARED_DATA
