"""Bytes and operations of a shape, against numbers that are derived by hand in the comments."""

import pytest

from configs.schema import BaseConfig, LoraSection
from policies.footprint import Model
from policies.shapes import read_shape

SHAPE = read_shape(
    {
        "model_type": "llama",
        "vocab_size": 100,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }
)
"""H = Q = K = 8, I = 16. A layer has 4 x 8 x 8 + 3 x 8 x 16 = 640 weights and 2 x 8 = 16 of norms. With 100 x 8 embeddings and the final
norm of 8, the model has 4 x 656 + 800 + 8 = 3,432 parameters."""


def model(lora=None, on_gpu=False, **base):
    return Model(SHAPE, BaseConfig(**base), LoraSection(rank=2, **(lora or {})), on_gpu)


def test_what_stays():
    assert SHAPE.parameters == 3432 and model().base_bytes == 4 * 3432 and model(dtype="bfloat16").base_bytes == 2 * 3432
    # 4 x 640 = 2,560 weights of 0.5 + 1/64 + 4/16,384 bytes are 1,320.6; 872 others of 2 bytes are 1,744.
    assert model(dtype="bfloat16", quantization="nf4").base_bytes == 3065
    # Rank x (in + out): 2 x (4 x 16 + 3 x 24) = 272 in a layer, in float32 whatever the base is in.
    assert model().adapter_bytes == model(dtype="bfloat16").adapter_bytes == 4 * 272 * 4
    assert model({"layers": "upper-half"}).adapter_bytes == 2 * 272 * 4
    assert model().optimizer_bytes(1000) == 3000  # a gradient and two moments
    # 5 rows of 7 tokens, keys and values of 8 numbers in 4 layers
    assert model().kv_cache_bytes(5, 7) == 5 * 7 * 2 * 8 * 4 * 4
    assert model(dtype="bfloat16").kv_cache_bytes(5, 7) == 5 * 7 * 2 * 8 * 4 * 2


def test_what_a_fused_layer_keeps():
    # 4H + Q + 2K + Q + 2I = 32 + 8 + 16 + 8 + 32 = 96, ranks of seven layers 14, attention weights 2 heads x 10 = 20: 130 numbers a token
    assert model().saved_bytes(3, length=10) == 3 * 130 * 4 * 4
    assert model({"layers": "upper-half"}).saved_bytes(3, length=10) == 3 * 130 * 4 * 2
    assert model().saved_bytes(3, length=129) == 3 * 110 * 4 * 4  # a longer row has no weights
    assert model(on_gpu=True).saved_bytes(3, length=10) == 3 * 110 * 4 * 4
    # Padded rows go through transformers' attention: what it gives is there twice (8 more), and no weights.
    assert model().saved_bytes(3, length=10, padded=True) == 3 * 118 * 4 * 4
    # Checkpointing keeps H = 8 for each layer, and all of one layer.
    assert model(gradient_checkpointing=True).saved_bytes(3, length=10) == 3 * 8 * 4 * 4 + 3 * 130 * 4


def test_what_a_plain_layer_keeps_in_bfloat16():
    # norms 2 x 8 in float32: 64. attention 3Q + 2K = 40 in bfloat16: 80. gate, its activation and up 3 x 16: 96. Inputs of seven layers in
    # float32: 5 times 8 and attention's output 8 and 16: 64, with their ranks 14: 78 x 4 = 312. Together 552 bytes a token.
    assert model(dtype="bfloat16", quantization="nf4").saved_bytes(3, length=10) == 3 * 552 * 4


def test_logits():
    # 10 x 100 logits of 4 bytes and 10 states of 32 bytes
    assert model().logprob_bytes(10) == 4000 + 320
    assert model(dtype="bfloat16").logprob_bytes(10) == 8000 + 160
    assert model().logprob_bytes(10**6) == 4 * 2**23 + 32 * 10**6  # no more than a chunk at a time
    assert model().draw_bytes(3) == 3 * 100 * 20
    assert model().sft_logit_bytes(10) == 1000 * 13 * 4
    assert model(on_gpu=True).sft_logit_bytes(10) == 10 * 32768 * 4


def test_merged_weights():
    assert model().merged_bytes == 4 * 640 * 4  # the head, of 800 weights, is too small for oneDNN's layout
    assert model({"layers": "upper-half"}, on_gpu=True).merged_bytes == 2 * 640 * 4
    assert model(dtype="bfloat16").merged_bytes == 4 * 640 * 2
    assert model({"layers": "upper-half"}, on_gpu=True, dtype="bfloat16").merged_bytes == 0  # the adapter stays beside the weights
    assert model(dtype="bfloat16", quantization="nf4").merged_bytes == 0


def test_operations():
    # 10 tokens in rows of 5: two for each of 2,560 weights, and 2 x 4 layers x 5 tokens x 8 numbers of attention
    forward = 10 * (2 * 2560 + 2 * 4 * 5 * 8)
    assert model().forward_flops(10, 5) == forward
    assert model().forward_flops(10, 5, logits=3) == forward + 2 * 3 * 800
    assert model().training_flops(10, 5, logits=3) == 2 * forward + 2 * 2 * 3 * 800
    assert model({"layers": "upper-half"}).training_flops(10, 5) == 1.5 * forward  # no backward pass of the lower half


@pytest.mark.parametrize("base", [{}, {"dtype": "bfloat16"}, {"gradient_checkpointing": True}])
def test_more_tokens_never_need_less(base):
    one, two = ([f(n) for f in (lambda n: model(**base).saved_bytes(n, 9), model(**base).backward_bytes)] for n in (100, 200))
    assert all(more == 2 * less for less, more in zip(one, two, strict=True))
